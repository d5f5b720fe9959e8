//! The configuration as written, key for key as in `config/default.toml`. Only types are checked here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::secret::{Secret, hide_credentials, hide_query};

/// The whole configuration, all layers merged.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub server: RawServer,
    pub redis: RawRedis,
    pub auth: RawAuth,
    pub session: RawSession,
    pub limits: RawLimits,
    pub hub: RawHub,
    pub drain: RawDrain,
    pub readiness: RawReadiness,
    pub feeds: RawFeeds,
    pub log: RawLog,
    pub user_stream: UserStream,
    pub topics: Vec<RawTopic>,
    pub profiles: Vec<RawProfile>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    pub mode: String,
    pub name: String,
    pub listen: String,
    pub ops_listen: String,
    pub workers: u64,
    pub allowed_origins: Vec<String>,
    pub trusted_proxies: Vec<String>,
    pub trusted_hops: u64,
    pub address_header: String,
    pub header_timeout: String,
    pub idle_timeout: String,
    pub header_bytes_max: u64,
    pub service_information: bool,
    pub tls: RawTls,
    pub ops_tls: OpsTls,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub cert_file: String,
    pub key_file: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpsTls {
    pub cert_file: String,
    pub key_file: String,
    pub client_ca_file: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRedis {
    pub mode: String,
    #[serde(serialize_with = "hide_credentials")]
    pub url: Secret,
    pub url_file: String,
    pub addresses: Vec<String>,
    pub user: String,
    pub password_file: String,
    pub address_map: Vec<String>,
    pub prefix: String,
    pub pool_size: u64,
    pub pool_wait_timeout: String,
    pub connect_timeout: String,
    pub response_timeout: String,
    pub canary_interval: String,
    pub canary_timeout: String,
    pub compare_interval: String,
    pub engines: bool,
    pub ca_file: String,
    pub client_cert_file: String,
    pub client_key_file: String,
    pub sentinel: RawSentinel,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSentinel {
    pub name: String,
    pub user: String,
    pub password_file: String,
    pub ca_file: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    pub hs256_secrets: Vec<Secret>,
    pub hs256_secrets_file: String,
    #[serde(serialize_with = "hide_query")]
    pub jwks_url: String,
    pub jwks_plain_ranges: Vec<String>,
    pub ca_file: String,
    pub jwks_refresh_interval: String,
    pub jwks_age_max: String,
    pub issuer: String,
    pub audience: String,
    pub user_claim: String,
    pub lifetime_without_exp: String,
    pub leeway: String,
    pub token_bytes_max: u64,
    pub expiry_warning: String,
    pub auth_timeout: String,
    pub ticket_ttl: String,
    pub api_keys: Vec<Secret>,
    pub api_keys_file: String,
    pub anonymous: String,
    pub public_keys: Vec<RawPublicKey>,
    pub keys: Vec<RawKey>,
}

/// One `[[auth.keys]]`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKey {
    pub name: String,
    #[serde(default)]
    pub rights: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPublicKey {
    pub algorithm: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSession {
    pub heartbeat_interval: String,
    pub heartbeat_timeout: String,
    pub write_timeout: String,
    pub resume_ttl: String,
    pub age_max: String,
    pub replica_ttl: String,
    pub session_ttl: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub connections_max: u64,
    pub connections_per_user_max: u64,
    pub over_limit: String,
    pub connections_per_address_max: u64,
    pub handshakes_per_address: RawRate,
    pub message_bytes_max: u64,
    pub body_bytes_max: u64,
    pub payload_bytes_max: u64,
    pub json_depth_max: u64,
    pub messages_per_connection: RawRate,
    pub messages_per_user: RawRate,
    pub rate_offences_max: u64,
    pub invalid_messages_max: u64,
    pub subscriptions_max: u64,
    pub outbox_messages_max: u64,
    pub outbox_bytes_max: u64,
    pub replay_entries_max: u64,
    pub replay_bytes_max: u64,
    pub replays_bytes_max: u64,
    pub replays_per_address_bytes_max: u64,
    pub bytes_read_per_address: RawRate,
    pub unknown_channels: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRate {
    pub per_second: u64,
    pub burst: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHub {
    pub topics_max: u64,
    pub unpublished_topics_max: u64,
    pub unpublished_per_address_max: u64,
    pub ring_messages_max: u64,
    pub ring_bytes_max: u64,
    pub linger: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrain {
    pub delay: String,
    pub spread: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReadiness {
    pub redis_required: bool,
    pub redis_grace: String,
    pub queue_grace: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFeeds {
    pub synthetic: RawSynthetic,
    pub binance: RawBinance,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBinance {
    pub enabled: String,
    pub stream_url: String,
    pub rest_url: String,
    pub symbols: Vec<String>,
    pub on_demand: bool,
    pub symbols_max: u64,
    pub linger: String,
    pub stale_after: String,
    pub symbols_refresh: String,
    pub connection_age_max: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSynthetic {
    pub enabled: String,
    pub symbols: Vec<String>,
    pub interval: String,
    pub seed: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub filter: String,
    pub format: String,
    pub audit_file: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserStream {
    pub retain_max: u64,
    pub retain_ttl: String,
    pub wait_replicas: u64,
    pub wait_aof: bool,
    pub dedupe_ttl: String,
}

/// One `[[topics]]`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTopic {
    pub pattern: String,
    pub class: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_ttl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_replicas: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_aof: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe_ttl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level_min: Option<String>,
}

/// One `[[profiles]]`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProfile {
    pub name: String,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    #[serde(default)]
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    #[serde(default)]
    pub token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal_code: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_user_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub welcome: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands_topic: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub symbol_verbs: BTreeMap<String, String>,
    #[serde(default)]
    pub channels: Vec<RawChannel>,
}

/// One entry of a profile's `channels`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChannel {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "is_no")]
    pub on_connect: bool,
    #[serde(default, skip_serializing_if = "is_no")]
    pub restricted: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_no(value: &bool) -> bool {
    !value
}
