//! Generates the ttrpc client and server of the agent's service.

use std::path::PathBuf;
use std::{fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/agent.proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["proto/agent.proto"])
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(
            ttrpc_codegen::ProtobufCustomize::default()
                .gen_mod_rs(false)
                .generate_getter(false),
        )
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..ttrpc_codegen::Customize::default()
        })
        .run()?;
    // The two generators would each write a list of modules over the other's.
    fs::write(out.join("mod.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")
}
