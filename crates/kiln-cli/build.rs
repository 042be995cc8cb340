//! Whether the model of digits is at hand, to be compiled in. It is larger than a package on crates.io may be, so only the
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
