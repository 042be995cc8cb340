//! Checks whether the model of digits exists, to compile it in. It is too large for a package on crates.io, so only the
//! repository has it.

use std::path::Path;

fn main() {
    let model = "../../pretrained/mnist";
    println!("cargo::rerun-if-changed={model}");
    println!("cargo::rustc-check-cfg=cfg(with_digits)");
    if Path::new(model).is_dir() {
        println!("cargo::rustc-cfg=with_digits");
    }
}
