//! An unavailable (A11) or full Redis: nothing crashes, memory is bounded, and afterwards trades are complete or
//! reported.

use crate::{
    nothing,
    stage::{FeedStage, either, unless},
};

pub async fn a11_redis_is_unreachable() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let memory = stage.metric("process_resident_memory_bytes").await;
    stage.redis.freeze();
    stage.audience.watch(either(8.0, 60.0)).await;
    let grown = stage.metric("process_resident_memory_bytes").await - memory;
    wrong.extend(unless(grown < 200e6, format!("the replica grew by {grown} bytes")));
    let holder = stage.metric("tickgate_feed_holder").await;
    wrong.extend(unless(holder == 0.0, "it still publishes, long after its lease ended"));
    stage.redis.thaw();
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.judged().await);
    nothing(wrong);
}

pub async fn a11_redis_is_full() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let _: () = stage.redis.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let _: () = stage.redis.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    stage.audience.watch(either(8.0, 60.0)).await;
    let refused = stage.metric("tickgate_publications_total{result=\"refused\",source=\"feed\"}").await;
    wrong.extend(unless(refused > 0.0, "Redis was not full"));
    let _: () = stage.redis.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.judged().await);
    nothing(wrong);
}
