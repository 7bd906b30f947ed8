//! tokio's mpsc, oneshot and mutex in the shape that openraft's runtime asks for. They are
//! deterministic: waiters are served in the order in which they came.
//!
//! Does not: add any behaviour.

use std::future::Future;

use openraft_rt::mpsc::{SendError, TryRecvError};
use openraft_rt::{OptionalSend, OptionalSync};
use tokio::sync::{mpsc, oneshot};

/// The bounded channel.
pub(crate) struct Mpsc;

/// The sending half of [`Mpsc`].
pub(crate) struct MpscSender<T>(mpsc::Sender<T>);

/// The receiving half of [`Mpsc`].
pub(crate) struct MpscReceiver<T>(mpsc::Receiver<T>);

/// A sender that does not keep the channel open.
pub(crate) struct MpscWeakSender<T>(mpsc::WeakSender<T>);

impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl openraft_rt::Mpsc for Mpsc {
    type Sender<T: OptionalSend> = MpscSender<T>;
    type Receiver<T: OptionalSend> = MpscReceiver<T>;
    type WeakSender<T: OptionalSend> = MpscWeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (MpscSender<T>, MpscReceiver<T>) {
        let (sender, receiver) = mpsc::channel(buffer);
        (MpscSender(sender), MpscReceiver(receiver))
    }
}

impl<T: OptionalSend> openraft_rt::MpscSender<Mpsc, T> for MpscSender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0
            .send(message)
            .await
            .map_err(|error| SendError(error.0))
    }

    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.downgrade())
    }
}

impl<T: OptionalSend> openraft_rt::MpscReceiver<T> for MpscReceiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> + OptionalSend {
        self.0.recv()
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T: OptionalSend> openraft_rt::MpscWeakSender<Mpsc, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        self.0.upgrade().map(MpscSender)
    }
}

/// The channel for one value.
pub(crate) struct Oneshot;

/// The sending half of [`Oneshot`].
pub(crate) struct OneshotSender<T>(oneshot::Sender<T>);

impl openraft_rt::Oneshot for Oneshot {
    type Sender<T: OptionalSend> = OneshotSender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;

    fn channel<T: OptionalSend>() -> (OneshotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}

impl<T: OptionalSend> openraft_rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// The lock that may be held over an await.
pub(crate) struct Mutex<T>(tokio::sync::Mutex<T>);

impl<T: OptionalSend + 'static> openraft_rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = tokio::sync::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(tokio::sync::Mutex::new(value))
    }

    fn lock(&self) -> impl Future<Output = Self::Guard<'_>> + OptionalSend {
        self.0.lock()
    }
}

// What openraft demands of these types; a change of tokio's would show here first.
const _: () = {
    const fn shareable<T: OptionalSend + OptionalSync>() {}
    shareable::<MpscSender<u8>>();
    shareable::<Mutex<u8>>();
};
