//! The kernels that are promised, each in an emulator: the committed object loads, attaches, counts the packet corpus,
//! admits as it should, and knows whose a port is; without a module the exporter says which one it needs.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use exporter_tests::guest::{self, Run};
use exporter_tests::skip;

/// The same everywhere.
const RUNS: [Run<'_>; 2] = [
    Run { program: "kernel_packets", tests: &["the_kernel_counts_what_each_shape_says"] },
    Run {
        program: "kernel_tables",
        tests: &[
            "both_sides_speaking_makes_a_flow_known",
            "forged_strangers_neither_push_out_nor_block_a_caller",
            "a_part_of_the_tables_is_kept_for_those_who_are_told",
        ],
    },
];

#[test]
fn linux_6_1_counts_by_clsact() -> Result<()> {
    let attach =
        Run { program: "attach_ebpf", tests: &["clsact_counts_both_directions_and_families"] };
    counts("LINUX_6_1", "Linux version 6.1.", attach)
}

#[test]
fn linux_6_12_counts_by_tcx() -> Result<()> {
    let attach = Run {
        program: "attach_ebpf",
        tests: &[
            "tcx_counts_both_directions_and_families",
            "links_that_were_detached_by_force_are_attached_again",
        ],
    };
    counts("LINUX_6_12", "Linux version 6.12.", attach)
}

fn counts(variable: &str, version: &str, attach: Run<'_>) -> Result<()> {
    let Some(kernel) = std::env::var_os(variable).map(PathBuf::from) else {
        skip(&format!("no kernel for {variable}: run `cargo xtask setup`"));
        return Ok(());
    };
    if let Some(missing) = guest::missing() {
        skip(&format!("{missing}: run `cargo xtask setup`"));
        return Ok(());
    }
    let binds = Run {
        program: "kernel_binds",
        tests: &[
            "the_first_packet_to_a_new_port_counts",
            "what_was_bound_before_the_start_is_found",
        ],
    };
    let [packets, tables] = RUNS;
    let told = guest::run(&kernel, &[packets, tables, attach, binds])?;
    ensure!(told.contains(version), "another kernel was booted:\n{told}");
    // Before any module was loaded, the exporter was started there.
    let remedy = "modprobe --all sch_ingress";
    ensure!(told.contains(remedy), "the missing module is not named:\n{told}");
    Ok(())
}
