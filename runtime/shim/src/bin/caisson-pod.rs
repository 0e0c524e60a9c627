//! `caisson-pod`: the process that stands for a pod on the host. The shim starts it in the pod's
//! network namespace; it holds nothing, does nothing, and is killed with the pod.

fn main() {
    loop {
        std::thread::park();
    }
}
