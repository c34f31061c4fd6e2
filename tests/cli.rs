//! The command line as a user and a script meet it: exit codes, and what goes to stdout and stderr.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

#[path = "cli/carrying.rs"]
mod carrying;
#[path = "cli/golden.rs"]
mod golden;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/looking.rs"]
mod looking;
#[path = "operator/rig.rs"]
mod rig;

use std::fs;

use rig::tidegate;

fn example(name: &str) -> String {
    format!("{}/edge-config/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_good_configuration_is_summed_up_on_stdout() {
    let ran = tidegate(&["check", "-c", &example("sd-card.toml")]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for fact in [
        "durability   full",
        "512MiB",
        "mqtts://mqtt.example.com:8883",
        "drop-oldest",
        "3d",
        "LISTENER",
        "0.0.0.0:1883",
    ] {
        assert!(ran.stdout.contains(fact), "{fact} is missing in\n{}", ran.stdout);
    }
}

#[test]
fn a_refused_configuration_exits_with_78_and_says_everything_on_stderr() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    fs::write(&file, "[store]\ndurabilty = 1\nmin_free = \"x\"\n").unwrap();
    for command in ["check", "run"] {
        let ran = tidegate(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{command}");
        assert!(ran.stderr.contains("did you mean `durability`?"), "{command}: {}", ran.stderr);
        assert!(ran.stderr.ends_with("configuration refused: 2 errors\n"), "{command}: {}", ran.stderr);
    }
}

#[test]
fn json_is_one_object_on_stdout_whether_good_or_refused() {
    let good = tidegate(&["check", "--json", "-c", &example("minimal.toml")]);
    let object: serde_json::Value = serde_json::from_str(&good.stdout).unwrap();
    assert_eq!((good.code, &object["ok"], &object["problems"]), (Some(0), &true.into(), &serde_json::json!([])));
    assert_eq!(object["summary"]["streams"][0]["to"], "cloud");

    let refused = tidegate(&["check", "--json", "-c", "/nonexistent/tidegate.toml"]);
    let object: serde_json::Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!((refused.code, &object["ok"], refused.stderr.as_str()), (Some(78), &false.into(), ""));
    assert_eq!(object["problems"][0]["place"]["source"], "/nonexistent/tidegate.toml");
    assert_eq!(object["problems"][0]["severity"], "error");
}

#[test]
fn help_goes_to_stderr_and_the_version_to_stdout() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "-h"],
        &["demo", "--help"],
        &["passwd", "--help"],
        &["dead", "--help"],
        &["pause", "-h"],
    ] {
        let ran = tidegate(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(ran.stderr.contains("Usage: tidegate"), "{arguments:?}: {}", ran.stderr);
    }
    let version = tidegate(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout, format!("tidegate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [&[][..], &["rnu"], &["check", "--nonsense"], &["check", "-c"]] {
        let ran = tidegate(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ran.stderr.contains("--help"), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn a_result_that_could_not_be_written_is_a_failure() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let done = command.args(["check", "-c", &example("minimal.toml")]).stdout(full).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert_eq!(said, "tidegate: cannot write to stdout: No space left on device (os error 28)\n");
}
