//! The served OpenAPI document describes exactly the routes that exist.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use serde_json::Value;
use tickgate_wire::code::ProblemKind;

use super::ApiReplica;
use crate::{api::probes::OPENAPI, metrics::RouteLabel};

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn exactly_the_existing_routes_are_described() {
    let document = document();
    let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let routed: BTreeSet<_> =
        RouteLabel::ALL.iter().filter(|route| **route != RouteLabel::Other).map(|route| route.as_str()).collect();
    assert_eq!(described, routed);
}

#[tokio::test]
async fn described_paths_accept_exactly_the_described_methods_on_the_described_listener() {
    let replica = ApiReplica::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        let concrete =
            path.replace("{id}", "alice").replace("{topic}", "logs").replace("{connection_id}", "0000000000000000");
        let public = item["servers"][0]["url"].as_str().unwrap().ends_with(":8000");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let described = item.get(method.as_str().to_lowercase()).is_some();
            let answer = if public {
                let request = axum::http::Request::builder().method(&method).uri(&concrete);
                let response = super::call(replica.api.public(), request.body(axum::body::Body::empty()).unwrap());
                super::read(response.await).await
            } else {
                replica.ops(method.clone(), &concrete, None, "").await
            };
            assert_ne!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.status != 405, described, "{method} {path} {}", answer.status);
            if !described {
                answer.problem(405, "method_not_allowed");
                let allowed: Vec<_> = answer.header("allow").split(',').map(str::to_lowercase).collect();
                assert!(allowed.iter().any(|method| item.get(method.as_str()).is_some()), "{path} {allowed:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_description_is_served_unchanged() {
    let replica = ApiReplica::new();
    let answer = replica.ops_get("/openapi.json").await;
    assert_eq!(answer.text, OPENAPI);
    assert_eq!(answer.json()["openapi"], "3.1.0");
}

#[test]
fn every_reference_of_the_description_resolves() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match member.as_str() {
                        Some(target) if name == "$ref" => found.push(target),
                        _ => references(member, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for target in found {
        assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
    }
}

#[test]
fn the_problems_are_those_of_the_table_of_codes() {
    let document = document();
    let described = &document["components"]["schemas"]["Problem"]["properties"]["error"]["enum"];
    assert_eq!(*described, Value::from_iter(ProblemKind::ALL.iter().map(|kind| kind.name())));
    let responses = document["components"]["responses"].as_object().unwrap();
    let examples = responses.values().map(|response| &response["content"]["application/problem+json"]["example"]);
    let mut seen = 0;
    for example in examples.filter(|example| example.is_object()) {
        let kind = ProblemKind::ALL.iter().find(|kind| example["error"] == kind.name()).expect("a kind of the table");
        let status = StatusCode::from_u16(kind.status()).unwrap();
        assert_eq!(example["type"], kind.urn());
        assert_eq!(example["title"], status.canonical_reason().unwrap());
        assert_eq!(example["status"], kind.status());
        assert_eq!(example.get("code").cloned(), kind.code().map(Value::from), "{kind:?}");
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}
