//! A watch channel whose wake order is the order of waiting: the one piece of openraft's runtime
//! that tokio's own channels cannot give (its `watch` wakes waiters in random order).
//!
//! Invariants: the version rises while the value's write lock is held, so a reader under the read
//! lock sees value and version of one moment; wakers run first come, first served, after all locks
//! are released. Lock order: value, then control.
//! Does not: keep any value but the newest.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

use openraft_rt::watch::{RecvError, SendError};
use openraft_rt::{OptionalSend, OptionalSync};

/// The channel type of [`super::runtime::EnvRuntime`].
pub(crate) struct Watch;

struct Control {
    version: u64,
    senders: usize,
    receivers: usize,
    next_waiter: u64,
    waiters: BTreeMap<u64, Waker>,
}

impl Control {
    fn take_waiters(&mut self) -> BTreeMap<u64, Waker> {
        std::mem::take(&mut self.waiters)
    }
}

struct Shared<T> {
    value: RwLock<T>,
    control: Mutex<Control>,
}

impl<T> Shared<T> {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control
            .lock()
            .expect("no code of others runs under this lock")
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value
            .read()
            .expect("a panic while a value changes stops the process")
    }
}

fn wake_all(waiters: BTreeMap<u64, Waker>) {
    for waker in waiters.into_values() {
        waker.wake();
    }
}

/// The sending half.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The receiving half, with the version that it has seen.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A read guard on the newest value.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.control().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiters = {
            let mut control = self.0.control();
            control.senders -= 1;
            if control.senders > 0 {
                return;
            }
            control.take_waiters()
        };
        wake_all(waiters);
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.control().receivers += 1;
        Self {
            shared: Arc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.control().receivers -= 1;
    }
}

impl openraft_rt::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(initial: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(initial),
            control: Mutex::new(Control {
                version: 0,
                senders: 1,
                receivers: 1,
                next_waiter: 0,
                waiters: BTreeMap::new(),
            }),
        });
        let receiver = Receiver {
            shared: Arc::clone(&shared),
            seen: 0,
        };
        (Sender(shared), receiver)
    }
}

impl<T: OptionalSend + OptionalSync> openraft_rt::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.control().receivers == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let waiters = {
            let mut value = self
                .0
                .value
                .write()
                .expect("a panic while a value changes stops the process");
            if !modify(&mut value) {
                return false;
            }
            let mut control = self.0.control();
            control.version += 1;
            control.take_waiters()
        };
        wake_all(waiters);
        true
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.0.read())
    }

    fn subscribe(&self) -> Receiver<T> {
        let mut control = self.0.control();
        control.receivers += 1;
        Receiver {
            shared: Arc::clone(&self.0),
            seen: control.version,
        }
    }
}

impl<T: OptionalSend + OptionalSync> openraft_rt::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let mut place = Place {
            shared: &self.shared,
            number: None,
        };
        let seen = &mut self.seen;
        poll_fn(|context| place.poll(seen, context)).await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.control().version;
        Ref(value)
    }
}

/// A waiter's place in the queue; given up when the wait is dropped.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    number: Option<u64>,
}

impl<T> Place<'_, T> {
    fn poll(&mut self, seen: &mut u64, context: &Context<'_>) -> Poll<Result<(), RecvError>> {
        let mut control = self.shared.control();
        if control.version != *seen {
            *seen = control.version;
            return Poll::Ready(Ok(()));
        }
        if control.senders == 0 {
            return Poll::Ready(Err(RecvError(())));
        }
        let number = *self.number.get_or_insert_with(|| {
            control.next_waiter += 1;
            control.next_waiter
        });
        control.waiters.insert(number, context.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.control().waiters.remove(&number);
        }
    }
}
