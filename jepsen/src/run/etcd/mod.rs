//! A client of etcd, over the JSON gateway of its third API: a cluster that we did not write, to
//! test the checkers and nemeses on.
//!
//! Each key is one of etcd's; a compare-and-set is a transaction on its value. Reads are etcd's
//! linearizable ones, unless the test asks for serializable ones, which may be stale.

mod base64;
mod http;

use hedgerow_env::{BoxFuture, Env};
use serde_json::{Value as Json, json};

use self::http::{Connection, HttpError};
use super::target::{Client, Completion, Operation};
use crate::history::Value;

/// How etcd is asked.
#[derive(Clone)]
pub struct EtcdClients {
    /// The seams.
    pub env: Env,
    /// The client addresses of the members.
    pub addresses: Vec<String>,
    /// Reads are answered by whoever is asked, from what it has: not linearizable.
    pub serializable_reads: bool,
}

/// A client that stays with one member.
pub struct EtcdClient {
    shared: EtcdClients,
    address: String,
    connection: Option<Connection>,
}

impl EtcdClient {
    /// A client for `process`: processes are spread over the members.
    ///
    /// # Panics
    /// When there are no members.
    #[must_use]
    pub fn new(shared: EtcdClients, process: u64) -> Self {
        let count = shared.addresses.len() as u64;
        let at = usize::try_from(process % count).expect("less than the members");
        Self {
            address: shared.addresses[at].clone(),
            shared,
            connection: None,
        }
    }

    async fn post(&mut self, path: &str, body: &Json) -> Result<Json, HttpError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.shared.env, &self.address).await?,
        };
        let answer = connection.post(path, body.to_string().as_bytes()).await?;
        self.connection = Some(connection);
        let json = serde_json::from_slice(&answer.body);
        let json: Json = json.map_err(|error| HttpError::Unknown(error.to_string()))?;
        if answer.status != 200 {
            let text = json["error"].as_str().unwrap_or("no reason");
            return Err(HttpError::Unknown(format!(
                "status {}: {text}",
                answer.status
            )));
        }
        Ok(json)
    }

    async fn perform_one(&mut self, operation: &Operation) -> Result<Completion, HttpError> {
        let key = format!("jepsen-{}", operation.key.unwrap_or(0));
        let key = base64::encode(key.as_bytes());
        let encoded = |value: &Value| base64::encode(value.to_string().as_bytes());
        match (operation.function, &operation.argument) {
            ("read", _) => {
                let serializable = self.shared.serializable_reads;
                let body = json!({ "key": key, "serializable": serializable });
                let answer = self.post("/v3/kv/range", &body).await?;
                Ok(read_value(&answer))
            }
            ("write", value) => {
                let body = json!({ "key": key, "value": encoded(value) });
                self.post("/v3/kv/put", &body).await?;
                Ok(Completion::Ok(value.clone()))
            }
            ("cas", pair) => {
                let Some((from, to)) = pair.pair() else {
                    return Ok(Completion::Fail("a cas takes a pair".to_owned()));
                };
                let body = json!({
                    "compare": [{
                        "key": key, "target": "VALUE", "result": "EQUAL", "value": encoded(from),
                    }],
                    "success": [{ "requestPut": { "key": key, "value": encoded(to) } }],
                });
                let answer = self.post("/v3/kv/txn", &body).await?;
                // The gateway leaves out what is false.
                Ok(if answer["succeeded"].as_bool().unwrap_or(false) {
                    Completion::Ok(pair.clone())
                } else {
                    Completion::Fail("the value is another".to_owned())
                })
            }
            (other, _) => Ok(Completion::Fail(format!("etcd has no {other}"))),
        }
    }
}

/// The value in the answer of a range request for one key.
fn read_value(answer: &Json) -> Completion {
    let Some(encoded) = answer["kvs"][0]["value"].as_str() else {
        return Completion::Ok(Value::Nil);
    };
    let bytes = base64::decode(encoded);
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    match text.and_then(|text| text.parse().ok()) {
        Some(number) => Completion::Ok(Value::Int(number)),
        // A value that nobody wrote is an answer, and no model explains it.
        None => Completion::Ok(Value::String(encoded.to_owned())),
    }
}

impl Client for EtcdClient {
    fn perform<'a>(&'a mut self, operation: &'a Operation) -> BoxFuture<'a, Completion> {
        Box::pin(async move {
            match self.perform_one(operation).await {
                Ok(completion) => completion,
                Err(HttpError::NotSent(text)) => Completion::Fail(text),
                // A read that failed says nothing.
                Err(HttpError::Unknown(text)) if operation.function == "read" => {
                    Completion::Fail(text)
                }
                Err(HttpError::Unknown(text)) => Completion::Unknown(text),
            }
        })
    }
}
