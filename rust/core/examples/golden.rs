//! Writes the golden bytes of every format to the directory that is named: `cargo run --example golden -- tests/data`.
//!
//! Files of a version that was released are never written again; a new version gets new files.

use std::error::Error;
use std::path::PathBuf;

use meshos_core::testing::samples;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(std::env::args_os().nth(1).ok_or("name a directory")?);
    for (name, bytes) in samples::golden() {
        let version = samples::version(name);
        std::fs::write(directory.join(format!("{name}_v{version}.bin")), bytes)?;
    }
    std::fs::write(directory.join("golden.json"), samples::golden_json())?;
    Ok(())
}
