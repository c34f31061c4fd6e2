//! What the systemd units set, for whoever reads a configuration outside of them.

use std::path::{self, Path, PathBuf};

use super::DEFAULT_FILE;

/// `StateDirectory=` of `tidegate.service`; an instance of `tidegate@.service` has its name after a hyphen.
const STATE_DIRECTORY: &str = "/var/lib/tidegate";

/// The `$STATE_DIRECTORY` of the unit that runs this configuration (`None` for the default one), where one of the units does:
/// `/etc/tidegate/tidegate.toml`, or `/etc/tidegate/NAME/tidegate.toml`.
pub(super) fn data_dir(file: Option<&Path>) -> Option<PathBuf> {
    let default = Path::new(DEFAULT_FILE);
    let file = file.unwrap_or(default);
    if !file.exists() {
        return None;
    }
    let file = path::absolute(file).ok()?;
    if file == default {
        return Some(PathBuf::from(STATE_DIRECTORY));
    }
    instance(&file).map(|name| PathBuf::from(format!("{STATE_DIRECTORY}-{name}")))
}

/// The name of the instance whose file this is.
fn instance(file: &Path) -> Option<&str> {
    let default = Path::new(DEFAULT_FILE);
    let folder = file.strip_prefix(default.parent()?).ok()?.parent()?;
    let is_its = file.file_name() == default.file_name() && folder.components().count() == 1;
    folder.to_str().filter(|_| is_its)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_below_etc_belongs_to_an_instance_by_its_folder() {
        let instance = |file| instance(Path::new(file));
        assert_eq!(instance("/etc/tidegate/north/tidegate.toml"), Some("north"));
        for none in ["/etc/tidegate/tidegate.toml", "/etc/tidegate/a/b/tidegate.toml", "/etc/tidegate/conf.d/10.toml"] {
            assert_eq!(instance(none), None, "{none}");
        }
        assert_eq!(instance("north/tidegate.toml"), None);
        assert_eq!(data_dir(Some(Path::new("/etc/tidegate/is-not-there/tidegate.toml"))), None);
    }
}
