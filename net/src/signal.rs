//! A one-shot signal with a reason, for any number of waiters.

use std::sync::OnceLock;

use hedgerow_env::NetworkError;
use tokio::sync::Notify;

use crate::frame::FrameError;

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CloseReason {
    #[error("the peer closed it")]
    PeerClosed,
    #[error(transparent)]
    Broken(#[from] NetworkError),
    #[error("unreadable: {0}")]
    BadFrame(#[from] FrameError),
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    #[error("nothing arrived for too long")]
    Silent,
    #[error("not used for long")]
    Idle,
    #[error("our identity changed")]
    Retired,
    #[error("this node is stopping")]
    Stopped,
}

/// Fired once; everyone who waits, or comes later, sees it.
#[derive(Default)]
pub(crate) struct Signal {
    reason: OnceLock<CloseReason>,
    notify: Notify,
}

impl Signal {
    /// Fires. False when it was fired before; the first reason stays.
    pub(crate) fn fire(&self, reason: CloseReason) -> bool {
        let first = self.reason.set(reason).is_ok();
        if first {
            self.notify.notify_waiters();
        }
        first
    }

    /// The reason, once fired.
    pub(crate) fn fired(&self) -> Option<&CloseReason> {
        self.reason.get()
    }

    /// Completes when fired.
    pub(crate) async fn wait(&self) {
        loop {
            // Registered before the check, so that a signal in between is not missed.
            let notified = self.notify.notified();
            if self.fired().is_some() {
                return;
            }
            notified.await;
        }
    }
}
