//! Two machines on one.

use std::{fs, process::Command};

use super::{Workplace, job};

/// Two simulated machines: separate namespaces for names and networks, with a cable between them.
pub struct TwoMachines {
    names: [String; 2],
}

impl TwoMachines {
    /// `None` if the rights or the tools for it are missing.
    pub fn new(workplace: &Workplace) -> Option<Self> {
        let names = ["a", "b"].map(|name| format!("kiln-{}-{name}", std::process::id()));
        let [a, b] = &names;
        // How `mpirun`, on the first machine, starts its helper on the second, as `ssh` would: AGENT ADDRESS COMMAND...
        let agent = format!(
            "#!/bin/sh\nshift\nexec ip netns exec {b} unshare --uts sh -c \"hostname {b}; exec $*\"\n"
        );
        fs::write(workplace.path("agent"), agent).unwrap();
        let script = format!(
            "set -e; chmod +x agent; unshare --uts true
            ip netns add {a}; ip netns add {b}
            ip -n {a} link add cable type veth peer name cable netns {b}
            ip -n {a} addr add 10.77.0.1/24 dev cable; ip -n {b} addr add 10.77.0.2/24 dev cable
            for name in {a} {b}; do ip -n $name link set lo up; ip -n $name link set cable up; done"
        );
        let mut command = Command::new("sh");
        command
            .current_dir(workplace.path(""))
            .args(["-c", &script]);
        let made = command.output().unwrap();
        let machines = Self { names };
        if made.status.success() {
            return Some(machines);
        }
        eprintln!("skipped: {}", String::from_utf8_lossy(&made.stderr));
        None
    }

    /// [`job`] with a rank on each of them.
    pub fn job(&self, workplace: &Workplace, ranks: usize, arguments: &str) -> Command {
        let local = job(workplace, ranks, arguments);
        let mut command = Command::new("ip");
        command
            .current_dir(workplace.path(""))
            .args(["netns", "exec", &self.names[0], "mpirun"])
            .args(["--mca", "plm_rsh_agent"])
            .arg(workplace.path("agent"))
            .args(["--mca", "btl", "self,tcp"])
            .args(["--host", "10.77.0.1:1,10.77.0.2:1"])
            .args(local.get_args());
        let set = local.get_envs();
        command.envs(set.filter_map(|(name, value)| Some((name, value?))));
        command
    }
}

impl Drop for TwoMachines {
    fn drop(&mut self) {
        for name in &self.names {
            let delete = Command::new("ip").args(["netns", "del", name]).output();
            drop(delete); // it fails if the namespace was never made
        }
    }
}
