//! What operators ask about shards: which there are, and to have one split.
//!
//! Does not: do the split (the root's leader does, `core/pages/src/drivers/split.rs`), or wait for it.

use hedgerow_env::{GroupId, MapEpoch};
use hedgerow_protocol::{
    AdminReply, RootAnswer, RootCommand, RootOutcome, RootQuery, RootRefusal, ShardList,
    ShardSlots, ShardTable, SplitRecord, SplitView, StatusView,
};

use crate::admin::{AdminError, AdminService, GROUP_LIMIT, unexpected};

fn view(split: &SplitRecord) -> SplitView {
    SplitView {
        from: split.from,
        to: split.to.group,
        opened: split.opened,
    }
}

impl AdminService {
    /// The split that is under way.
    pub(crate) async fn split_under_way(&self) -> Result<Option<SplitView>, AdminError> {
        let answer = self
            .groups
            .root_query(RootQuery::Split, GROUP_LIMIT)
            .await?;
        let RootAnswer::Split(split) = answer else {
            return Err(AdminError::TryAgain("unexpected answer of the root".into()));
        };
        Ok(split.as_ref().map(view))
    }

    async fn newest_table(&self) -> Result<ShardTable, AdminError> {
        let answer = self
            .groups
            .root_query(RootQuery::Table, GROUP_LIMIT)
            .await?;
        let RootAnswer::Table(table) = answer else {
            return Err(AdminError::TryAgain("unexpected answer of the root".into()));
        };
        self.groups.directory().learn_table(table.clone());
        Ok(table)
    }

    /// Answers `ListShards`.
    pub(crate) async fn list_shards(&self) -> Result<AdminReply, AdminError> {
        // The split first: one that has ended meanwhile is in the table.
        let split = self.split_under_way().await?;
        let table = self.newest_table().await?;
        let mut sums = StatusView::default();
        let shards = self.shards(&mut sums).await.into_iter().map(|view| {
            let range = table.range_of(view.shard).unwrap_or_default();
            ShardSlots { view, range }
        });
        Ok(AdminReply::Shards(ShardList {
            epoch: table.epoch,
            shards: shards.collect(),
            split,
        }))
    }

    /// Answers `SplitShard`.
    pub(crate) async fn split_shard(
        &self,
        group: GroupId,
        epoch: MapEpoch,
    ) -> Result<AdminReply, AdminError> {
        match self
            .command(RootCommand::SplitShard { group, epoch })
            .await?
        {
            RootOutcome::Splitting(split) => Ok(AdminReply::Splitting(view(&split))),
            RootOutcome::Refused(refusal @ RootRefusal::TableChanged { .. }) => {
                Err(AdminError::TryAgain(refusal.to_string()))
            }
            RootOutcome::Refused(refusal) => Err(AdminError::Refused(refusal.to_string())),
            other => Err(unexpected(&other)),
        }
    }
}
