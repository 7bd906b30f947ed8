//! Virtual disks as iSCSI targets: the catalog of a portal, and the adapter from its block port to
//! the proxy.
//!
//! A disk is attached at the first command that needs it, so several portals may list the same disk
//! and the one that is used gets it. A lost attachment is taken anew at the next command, or by a write
//! that it cut off (`Proxy::change`). A disk whose last session ended is released, so that another
//! portal gets it without waiting for a lease.
//! Invariant: a write that was begun is answered with its outcome, or not at all: then its session
//! ends. An error says that nothing was begun.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hedgerow_env::{Env, event};
use hedgerow_iscsi::{
    BlockDevice, BlockError, ChapAccount, ChapCredentials, Geometry, IscsiServer, LogicalUnit,
    OperationTag, TargetCatalog, TargetDescription, target_name,
};
use hedgerow_net::GroupClient;
use hedgerow_protocol::{DiskRecord, DiskState, Export, RootAnswer, RootQuery};
use hedgerow_proxy::{AttachError, Change, ChangeError, IoError, Proxy, VirtualDisk};

use crate::config::{Exports, IscsiConfig};

/// The list of disks is asked for this often: a new disk is visible within it.
const LIST_PERIOD: Duration = Duration::from_secs(1);
/// A list that takes longer is asked for again.
const LIST_LIMIT: Duration = Duration::from_secs(3);
/// How long a command waits for an attachment held elsewhere: the lease of a dead proxy ends
/// within it.
const ATTACH_LIMIT: Duration = Duration::from_secs(12);
/// Pause between attempts to attach.
const ATTACH_PAUSE: Duration = Duration::from_millis(250);

/// A disk without sessions in so many lists, one after another, is released.
const LISTS_BEFORE_RELEASE: u32 = 2;

/// The disks that this node exports.
pub(crate) struct Catalog {
    env: Env,
    proxy: Proxy,
    config: IscsiConfig,
    disks: Mutex<BTreeMap<String, Arc<ExportedDisk>>>,
}

impl Catalog {
    /// A catalog without disks, until [`Catalog::keep_following`].
    #[must_use]
    pub(crate) fn new(env: Env, proxy: Proxy, config: IscsiConfig) -> Arc<Self> {
        Arc::new(Self {
            env,
            proxy,
            config,
            disks: Mutex::default(),
        })
    }

    /// Follows the cluster's list of disks, and ends the sessions at `portal` of those that go.
    pub(crate) fn keep_following(self: &Arc<Self>, groups: GroupClient, portal: Weak<IscsiServer>) {
        let following = Arc::clone(self);
        self.env.spawn("export-list", async move {
            while let Some(portal) = portal.upgrade() {
                let query = RootQuery::Disks;
                if let Ok(RootAnswer::Disks(records)) = groups.root_query(query, LIST_LIMIT).await {
                    for gone in following.follow(&records) {
                        portal.withdraw(&gone);
                    }
                }
                drop(portal);
                following.env.sleep(LIST_PERIOD).await;
            }
        });
    }

    fn exports(&self, record: &DiskRecord) -> bool {
        let named = match &self.config.exports {
            Exports::All => true,
            Exports::Names(names) => names.contains(&record.name),
        };
        named && record.state == DiskState::Ready && target_name(&record.name).is_ok()
    }

    /// Takes in the list of disks, and answers the targets that are gone: also those whose disk was
    /// replaced by another of the same name.
    fn follow(&self, records: &[DiskRecord]) -> Vec<String> {
        let mut disks = self.disks.lock().expect("no panic under this lock");
        let mut listed = BTreeMap::new();
        for record in records.iter().filter(|record| self.exports(record)) {
            let name = target_name(&record.name).expect("checked by exports()");
            let is_same = |disk: &Arc<ExportedDisk>| disk.record().disk == record.disk;
            let known = disks.get(&name).is_some_and(is_same);
            let known = known.then(|| disks.remove(&name)).flatten();
            let disk = known.unwrap_or_else(|| {
                event!(
                    self.env,
                    Info,
                    "iscsi",
                    "exporting {} as {name}",
                    record.name
                );
                Arc::new_cyclic(|own| ExportedDisk {
                    own: own.clone(),
                    env: self.env.clone(),
                    proxy: self.proxy.clone(),
                    state: Mutex::new(ExportState {
                        record: record.clone(),
                        attached: None,
                        sessions: 0,
                        lists_without_session: 0,
                    }),
                    attaching: tokio::sync::Mutex::new(()),
                })
            });
            disk.update(record);
            disk.release_if_unused();
            listed.insert(name, disk);
        }
        let gone = std::mem::replace(&mut *disks, listed);
        for (name, disk) in &gone {
            event!(self.env, Info, "iscsi", "no longer exporting {name}");
            disk.abandon();
        }
        gone.into_keys().collect()
    }

    /// Whether an initiator's commands go through this attachment.
    pub(crate) fn uses(&self, attachment: &VirtualDisk) -> bool {
        let disks = self.disks.lock().expect("no panic under this lock");
        let mut attached = disks.values().filter_map(|disk| disk.attached());
        attached.any(|used| used.writer() == attachment.writer())
    }

    /// The disks exported now, each with its URL at the portal `address`.
    #[must_use]
    pub(crate) fn urls(&self, address: &str) -> Vec<Export> {
        let disks = self.disks.lock().expect("no panic under this lock");
        disks
            .iter()
            .map(|(target, disk)| Export {
                disk: disk.record().disk,
                url: format!("iscsi://{address}/{target}/0"),
            })
            .collect()
    }
}

impl TargetCatalog for Catalog {
    fn target_names(&self) -> Vec<String> {
        self.disks
            .lock()
            .expect("no panic under this lock")
            .keys()
            .cloned()
            .collect()
    }

    fn find(&self, name: &str) -> Option<TargetDescription> {
        let disk = self
            .disks
            .lock()
            .expect("no panic under this lock")
            .get(name)
            .cloned()?;
        let record = disk.record();
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&record.family.0.to_be_bytes());
        identity[8..].copy_from_slice(&record.disk.0.to_be_bytes());
        let unit = LogicalUnit {
            device: disk,
            identity,
            name: record.name,
        };
        let chap = self
            .config
            .chap
            .as_ref()
            .map(|(user, secret)| ChapCredentials {
                initiator: ChapAccount {
                    user: user.clone(),
                    secret: secret.clone().into_bytes(),
                },
                target: None,
            });
        Some(TargetDescription {
            name: name.to_owned(),
            units: BTreeMap::from([(0, unit)]),
            chap,
            portals: Vec::new(),
        })
    }
}

struct ExportState {
    record: DiskRecord,
    attached: Option<VirtualDisk>,
    /// Sessions that use it.
    sessions: usize,
    /// So many lists in a row found no session of it.
    lists_without_session: u32,
}

/// One exported disk.
pub(crate) struct ExportedDisk {
    /// Devices hand out owned futures, so each finds its own shared form.
    own: Weak<ExportedDisk>,
    env: Env,
    proxy: Proxy,
    state: Mutex<ExportState>,
    attaching: tokio::sync::Mutex<()>,
}

impl ExportedDisk {
    fn with<T>(&self, act: impl FnOnce(&mut ExportState) -> T) -> T {
        act(&mut self.state.lock().expect("no panic under this lock"))
    }

    fn shared(&self) -> Arc<Self> {
        self.own.upgrade().expect("whoever calls a device holds it")
    }

    fn record(&self) -> DiskRecord {
        self.with(|state| state.record.clone())
    }

    fn update(&self, record: &DiskRecord) {
        self.with(|state| {
            // A list from before the attachment may still have the size from before a cut.
            if record.generation < state.record.generation {
                return;
            }
            if let Some(disk) = &state.attached {
                disk.set_size_bytes(record.size_bytes);
            }
            state.record = record.clone();
        });
    }

    fn taken(&self, disk: &VirtualDisk) {
        self.with(|state| {
            // An attachment that this proxy had before may have been told a newer size since.
            let granted = disk.record();
            if granted.generation > state.record.generation {
                state.record = granted.clone();
            } else {
                disk.set_size_bytes(state.record.size_bytes);
            }
            state.attached = Some(disk.clone());
        });
    }

    fn release_if_unused(&self) {
        let released = self.with(|state| {
            state.lists_without_session = if state.sessions == 0 {
                state.lists_without_session + 1
            } else {
                0
            };
            if state.lists_without_session < LISTS_BEFORE_RELEASE {
                return None;
            }
            // One that was lost has no need of it; a change that is seen through brings its own.
            state.attached.take_if(|disk| !disk.is_lost())
        });
        let Some(disk) = released else { return };
        let (env, proxy, own) = (self.env.clone(), self.proxy.clone(), self.shared());
        self.env.spawn("export-release", async move {
            let name = disk.record().name.clone();
            event!(
                env,
                Info,
                "iscsi",
                "{name}: no session is left, releasing it"
            );
            if let Err(error) = proxy.detach(&disk).await {
                event!(env, Warn, "iscsi", "{name}: {error}");
                own.keep_unreleased(disk);
            }
        });
    }

    /// It could not be released yet: a later list tries again, else nobody else would ever get it.
    fn keep_unreleased(&self, disk: VirtualDisk) {
        self.with(|state| {
            if !disk.is_lost() && state.attached.is_none() {
                state.attached = Some(disk);
            }
        });
    }

    fn abandon(&self) {
        if let Some(disk) = self.with(|state| state.attached.take()) {
            disk.lose("no longer exported");
        }
    }

    fn attached(&self) -> Option<VirtualDisk> {
        self.with(|state| state.attached.clone())
            .filter(|disk| !disk.is_lost())
    }

    /// The present attachment; taken when there is none.
    async fn disk(&self) -> Result<VirtualDisk, BlockError> {
        if let Some(disk) = self.attached() {
            return Ok(disk);
        }
        // Counted from here: whoever waits behind another's attempts does not begin anew after them.
        let give_up = self.env.now() + ATTACH_LIMIT;
        let _one = self.attaching.lock().await;
        let DiskRecord { name, disk, .. } = self.record();
        loop {
            if let Some(disk) = self.attached() {
                return Ok(disk);
            }
            match self.proxy.attach(&name).await {
                // Deleted, and another made under its name: that one has an export of its own.
                Ok(other) if other.id() != disk => {
                    drop(self.proxy.detach(&other).await);
                    return Err(BlockError::Gone);
                }
                Ok(disk) => {
                    self.taken(&disk);
                    return Ok(disk);
                }
                Err(AttachError::NoSuchDisk(_)) => return Err(BlockError::Gone),
                Err(error) => {
                    event!(self.env, Info, "iscsi", "{name}: not attached yet: {error}");
                }
            }
            if self.env.now() >= give_up {
                return Err(BlockError::Unavailable);
            }
            self.env.sleep(ATTACH_PAUSE).await;
        }
    }

    /// A read under an attachment that was lost meanwhile has answered nothing yet: it is done again
    /// under the next one.
    async fn look(&self, first_byte: u64, length_bytes: u64) -> Result<Bytes, BlockError> {
        let give_up = self.env.now() + ATTACH_LIMIT;
        loop {
            let disk = self.disk().await?;
            match disk.read(first_byte, length_bytes).await {
                Err(IoError::Fenced) if self.env.now() < give_up => {
                    self.env.sleep(ATTACH_PAUSE).await;
                }
                read => return read.map_err(block_error),
            }
        }
    }

    /// Until there is an attachment nothing is begun, so failing is all that has happened then.
    ///
    /// A change that was seen through has left the disk under another attachment, which is this
    /// export's to release: in a task of its own, so that it is told whoever still waits.
    async fn change(&self, change: Change, tag: OperationTag) -> Result<(), BlockError> {
        let disk = self.disk().await?;
        let tag = hedgerow_proxy::OperationTag(tag.0);
        let (answer, result) = tokio::sync::oneshot::channel();
        let own = self.shared();
        self.env.spawn("export-change", async move {
            let changed = own.proxy.change(&disk, change, tag).await;
            if disk.is_lost()
                && let Some(present) = own.proxy.attachment_of(disk.id())
            {
                own.taken(&present);
            }
            drop(answer.send(changed));
        });
        let changed = result.await.unwrap_or(Err(ChangeError::OutcomeUnknown));
        changed.map_err(change_error)
    }
}

fn change_error(error: ChangeError) -> BlockError {
    match error {
        ChangeError::Io(error) => block_error(error),
        ChangeError::OutcomeUnknown => BlockError::OutcomeUnknown,
    }
}

fn block_error(error: IoError) -> BlockError {
    match error {
        IoError::OutOfRange => BlockError::OutOfRange,
        IoError::Misaligned { .. } => BlockError::Medium("misaligned request".into()),
        IoError::Fenced => BlockError::Unavailable,
        IoError::Cancelled => BlockError::Cancelled,
        IoError::NoRoom { in_part: false } => BlockError::Busy,
        IoError::NoRoom { in_part: true } => BlockError::NoSpace,
        IoError::Unavailable(_) => BlockError::Unavailable,
    }
}

impl BlockDevice for ExportedDisk {
    fn sessions_changed(&self, count: usize) {
        self.with(|state| state.sessions = count);
    }

    fn geometry(&self) -> Geometry {
        self.with(|state| {
            let block_size = state.record.policy.block_size;
            Geometry::new(block_size, state.record.size_bytes / u64::from(block_size))
        })
    }

    fn read(
        &self,
        first_byte: u64,
        length_bytes: u32,
    ) -> BoxFuture<'static, Result<Bytes, BlockError>> {
        let this = self.shared();
        async move { this.look(first_byte, u64::from(length_bytes)).await }.boxed()
    }

    fn write(
        &self,
        first_byte: u64,
        data: Bytes,
        tag: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>> {
        let this = self.shared();
        async move { this.change(Change::write(first_byte, data), tag).await }.boxed()
    }

    fn write_zeroes(
        &self,
        first_byte: u64,
        length_bytes: u64,
        _unmap: bool,
        tag: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>> {
        let this = self.shared();
        async move {
            this.change(Change::zero(first_byte, length_bytes), tag)
                .await
        }
        .boxed()
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), BlockError>> {
        let disk = self.attached();
        async move {
            // Without an attachment nothing was acknowledged that is not durable.
            disk.map_or(Ok(()), |disk| disk.flush().map_err(block_error))
        }
        .boxed()
    }

    fn settle(&self, take: bool) -> BoxFuture<'static, Result<(), BlockError>> {
        let this = self.shared();
        async move {
            // A lost attachment may have left writes that no fence has met yet.
            let used = this.with(|state| state.attached.is_some());
            if !used && !take {
                return Ok(());
            }
            let disk = this.disk().await?;
            let settled = this.env.timeout(ATTACH_LIMIT, disk.settled()).await;
            let settled = settled.map_err(|_| BlockError::Unavailable)?;
            settled.map_err(block_error)
        }
        .boxed()
    }

    fn cancel(&self, tag: OperationTag) -> BoxFuture<'static, ()> {
        let disk = self.with(|state| state.attached.clone());
        async move {
            if let Some(disk) = disk {
                disk.cancel(hedgerow_proxy::OperationTag(tag.0)).await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "exports_refusals.rs"]
mod refusals;

#[cfg(test)]
mod tests {
    use hedgerow_env::{FamilyId, Generation, LayerId, NodeId, TenantId, VirtualDiskId};
    use hedgerow_net::testing::MemoryNetwork;
    use hedgerow_net::{Directory, Identity, RoleSet, Rpc, RpcConfig};
    use hedgerow_protocol::Policy;
    use hedgerow_proxy::ProxyConfig;

    use super::*;

    fn record(disk: u64, name: &str) -> DiskRecord {
        DiskRecord {
            disk: VirtualDiskId(disk),
            family: FamilyId(disk),
            name: name.to_owned(),
            size_bytes: 1 << 30,
            container_bytes: 1 << 30,
            policy: Policy::default(),
            layers: vec![LayerId(1)],
            generation: Generation(1),
            attachments: Vec::new(),
            state: DiskState::Ready,
            tenant: TenantId::default(),
            qos_class: 0,
            description: String::new(),
        }
    }

    fn catalog() -> Arc<Catalog> {
        let env = MemoryNetwork::new(1).env();
        let identity = Identity {
            cluster: None,
            node: NodeId(1),
            stores: Vec::new(),
            roles: RoleSet::CLIENT,
            address: String::new(),
        };
        let rpc = Rpc::start_client(env.clone(), identity, RpcConfig::default()).unwrap();
        let directory = Arc::new(Directory::new(Vec::new()));
        let groups = GroupClient::new(env.clone(), rpc.clone(), directory);
        let config = ProxyConfig::default();
        let proxy = Proxy::start(env.clone(), rpc, groups, NodeId(1), config);
        let iscsi = IscsiConfig {
            listen: String::new(),
            exports: Exports::All,
            chap: None,
        };
        Catalog::new(env, proxy, iscsi)
    }

    /// A list that was asked for before a cut must not bring the former size back.
    #[tokio::test(start_paused = true)]
    async fn a_list_from_before_a_newer_generation_changes_nothing() {
        let catalog = catalog();
        let one = target_name("one").unwrap();
        let sized = |generation, size_bytes| DiskRecord {
            generation: Generation(generation),
            size_bytes,
            ..record(1, "one")
        };
        let size = || {
            let disk = catalog.disks.lock().unwrap()[&one].clone();
            let geometry = disk.geometry();
            geometry.block_count * u64::from(geometry.block_size_bytes)
        };
        catalog.follow(&[sized(2, 1 << 30)]);
        catalog.follow(&[sized(1, 2 << 30)]);
        assert_eq!(size(), 1 << 30);
        catalog.follow(&[sized(2, 3 << 30)]);
        assert_eq!(size(), 3 << 30, "growth raises no generation");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_deleted_or_replaced_takes_its_target_with_it() {
        let catalog = catalog();
        let (one, two) = (target_name("one").unwrap(), target_name("two").unwrap());

        assert!(
            catalog
                .follow(&[record(1, "one"), record(2, "two")])
                .is_empty()
        );
        assert_eq!(catalog.target_names(), [one.clone(), two.clone()]);
        assert_eq!(
            catalog.urls("host:3260")[1],
            Export {
                disk: VirtualDiskId(2),
                url: format!("iscsi://host:3260/{two}/0"),
            }
        );
        // Deleted and made again under its name: the old one's sessions must not reach the new one.
        let gone = catalog.follow(&[record(3, "one"), record(2, "two")]);
        assert_eq!(gone, std::slice::from_ref(&one));
        let deleting = DiskRecord {
            state: DiskState::Deleting,
            ..record(2, "two")
        };
        assert_eq!(catalog.follow(&[record(3, "one"), deleting]), [two]);
        assert_eq!(catalog.target_names(), [one]);
    }
}
