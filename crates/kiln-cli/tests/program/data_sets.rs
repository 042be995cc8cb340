//! Users' data sets, through the program.

use std::fs;

use crate::training::{PIXELS, workplace};

#[test]
fn what_is_skipped_is_said_in_one_line() {
    let workplace = workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    fs::write(workplace.path("photos/notes.txt"), "not an image").unwrap();
    fs::write(workplace.path("photos/.hidden"), "hidden").unwrap();
    fs::rename(workplace.path("photos/00.png"), workplace.path("photos/00")).unwrap();
    let output = workplace.run("train-diffusion --config experiment.toml");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("skipped 2 entries: 1 hidden (.hidden), 1 not an image (notes.txt)"),
        "{stderr}"
    );
}

#[test]
fn what_is_not_as_its_owner_thinks_is_said() {
    let workplace = workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    let photos = |folder: &str| {
        let folder = workplace.path(folder);
        fs::create_dir_all(&folder).unwrap();
        for photo in fs::read_dir(workplace.path("photos")).unwrap() {
            let photo = photo.unwrap();
            fs::copy(photo.path(), folder.join(photo.file_name())).unwrap();
        }
    };
    for (set, folders, words) in [
        (
            "sets",
            ["train_set", "test_set"],
            "test_set/ and train_set/ look like splits",
        ),
        ("held", ["train", "holdout"], "train/ looks like a split"),
        (
            "masks",
            ["images/train", "labels"],
            "images/train/ looks like a split",
        ),
    ] {
        for folder in folders {
            photos(&format!("{set}/{folder}"));
        }
        let run = format!("train-diffusion --config experiment.toml --data {set} --out {set}-run");
        let output = workplace.run(&run);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains(words), "{set}: {stderr}");
    }
}

#[test]
fn what_is_no_data_set_is_one_sentence() {
    let workplace = workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    fs::write(workplace.path("data.zip"), pointer).unwrap();
    fs::write(workplace.path("data.tar.xz"), b"\xfd7zXZ\0\0").unwrap();
    for (data, words) in [
        ("data.zip", "git lfs pull"),
        ("data.tar.xz", "packed with xz"),
        #[cfg(unix)]
        ("/dev/zero", "is a device or a pipe"),
    ] {
        let arguments = format!("train-diffusion --config experiment.toml --data {data} --out r");
        let sentence = workplace.fail(&arguments);
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_data_set_whose_name_is_not_utf8_opens() {
    use std::os::unix::ffi::OsStrExt;
    let workplace = workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    let name = std::ffi::OsStr::from_bytes(b"photos-\xff");
    let path = workplace.path("photos").with_file_name(name);
    fs::rename(workplace.path("photos"), &path).unwrap();
    let mut command = crate::program(
        path.parent().unwrap(),
        "train-diffusion --config experiment.toml --data",
    );
    let output = command.arg(name).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}
