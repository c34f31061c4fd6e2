//! What is different inside and outside of the systemd units: credentials, the data folder, the network at boot.

use super::*;

const CREDENTIALS: &str = "/run/credentials/tidegate-is-not-here.service";

fn with_credentials() -> Folder {
    let uplink = UPLINK.replace("mqtt:", "mqtts:");
    let listener = format!(
        "[[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:8883\"\ntls = {{ cert = \"{CREDENTIALS}/cert\", key = \"{CREDENTIALS}/key\" }}\n"
    );
    let text = format!(
        "{listener}[auth]\npassword_file = \"{CREDENTIALS}/users\"\n\
         [admin]\ntoken_file = \"{CREDENTIALS}/token\"\n{uplink}password_file = \"{CREDENTIALS}/password\"\n"
    );
    folder(&[("tidegate.toml", &text)])
}

#[test]
fn the_gateway_needs_its_credentials_and_whoever_is_beside_it_is_told_that_they_are_not_to_be_seen() {
    let mut folder = with_credentials();
    let Err(Refused(problems)) = folder.load() else { panic!("the gateway would run without its secrets") };
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    assert_eq!(errors.count(), 5, "{problems:#?}");

    folder.inputs.reader = Reader::Onlooker;
    let config = folder.load().unwrap();
    let told: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let hidden = told.iter().filter(|told| told.contains("not looked at, for only the running service has it"));
    assert_eq!(hidden.count(), 5, "{told:#?}");
    assert!(config.uplinks.first().is_some_and(|uplink| uplink.password_file.is_some()));
}

#[test]
fn other_files_that_are_missing_are_errors_for_everybody() {
    let text = format!("{UPLINK}password_file = \"nowhere\"\n");
    let mut folder = folder(&[("tidegate.toml", &text)]);
    folder.inputs.reader = Reader::Onlooker;
    assert!(folder.load().is_err());
}

#[test]
fn beside_the_gateway_the_data_folder_is_that_of_its_unit_unless_something_else_is_said() {
    let data_dir = |folder: &Folder| folder.load().unwrap().store.data_dir;
    let of_unit = |text: &str| {
        let mut folder = folder(&[("tidegate.toml", text)]);
        folder.inputs.data_dir_of_unit = Some(PathBuf::from("/var/lib/tidegate-north"));
        folder
    };
    assert_eq!(data_dir(&of_unit("")), PathBuf::from("/var/lib/tidegate-north"));
    assert_eq!(data_dir(&of_unit("[gateway]\ndata_dir = \"/data\"")), PathBuf::from("/data"));
    let started = of_unit("").with_environment(&[("STATE_DIRECTORY", "/var/lib/other")]);
    assert_eq!(data_dir(&started), PathBuf::from("/var/lib/other"));
}

#[test]
fn a_name_that_is_not_resolved_may_pass_and_anything_else_beside_it_does_not() {
    let listener = "[[listener]]\nname = \"field\"\nbind = \"no-such-host.invalid:1883\"\nanonymous = true\n";
    let refused = |text: &str| folder(&[("tidegate.toml", text)]).load().unwrap_err();
    let unresolved = refused(listener);
    assert!(unresolved.may_pass(), "{unresolved}");
    assert!(unresolved.to_string().contains("this name cannot be resolved"), "{unresolved}");
    assert!(!refused(&format!("{listener}nonsense = 1\n")).may_pass());
    assert!(!refused("[[listener]]\nname = \"field\"\nbind = \"nowhere\"\n").may_pass());
}
