//! openraft over Env, RPC, the journal and redb. This folder alone names openraft and redb.
