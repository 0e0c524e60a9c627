//! A machine without processes, for tests of what talks to its guest.

use tokio::sync::{mpsc, watch};

use super::super::end;
use super::{Machine, Order};

impl Machine {
    /// One that nobody answers, and that ends at once when it is broken or stopped.
    pub(crate) fn without_processes() -> Self {
        let (questions, asked) = mpsc::channel(1);
        let (orders, mut given) = mpsc::channel(1);
        let (ended, end) = watch::channel(None);
        let (gone, reaped) = watch::channel(false);
        tokio::spawn(async move {
            let how = match given.recv().await {
                Some(Order::Broken(reason) | Order::Failed(reason)) => end::failed(reason),
                Some(Order::Stop) | None => end::stopped(),
            };
            ended.send_replace(Some(how));
            gone.send_replace(true);
            drop(asked);
        });
        Self {
            pids: [std::process::id(); 2],
            questions,
            orders,
            end,
            reaped,
        }
    }
}
