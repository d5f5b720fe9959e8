//! `/ws/trading`: a user's private channels and symbol prices.

use serde_json::json;

use crate::support::replica::Replica;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_hears_what_is_published_to_them() {
    let replica = Replica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let order = json!({"type": "order_update", "order_id": "123456", "status": "filled", "average_price": "50000.00"});
    let id = replica.publish_to("alice", "orders", order.clone()).await;
    let meta = alice.expect(order).await;
    assert_eq!(meta, json!({"channel": "orders", "id": id}));
}
