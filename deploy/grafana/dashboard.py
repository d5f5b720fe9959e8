"""The Grafana dashboard as a table of rows and panels. `deploy/render.py` writes it to tickgate.json; do not edit that file.

Queries contain FILTER in the place of the dashboard's variables; docs/metrics.md lists the metrics.
"""

from __future__ import annotations

import json

FILTER = 'job="tickgate", namespace=~"$namespace", instance=~"$instance"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "$__rate_interval"


def rate(metric: str, by: str = "", match: str = "") -> str:
    """Events per second, summed by labels."""
    chosen = f"{FILTER}, {match}" if match else FILTER
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{chosen}}}[{RATE}]))"


def quantile(q: float, metric: str, by: str = "") -> str:
    """A quantile of all replicas, or by a label."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{FILTER}}}[{RATE}])))"


def total(metric: str, by: str = "", match: str = "") -> str:
    """A gauge, summed by labels."""
    chosen = f"{FILTER}, {match}" if match else FILTER
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{chosen}}})"


def grown(metric: str, by: str = "", match: str = "") -> str:
    """Increase of a counter in the selected time range."""
    chosen = f"{FILTER}, {match}" if match else FILTER
    return f"sum{f' by ({by})' if by else ''} (increase({metric}{{{chosen}}}[$__range]))"


def quantiles(metric: str, *qs: float) -> list[tuple[str, str]]:
    return [(f"p{q * 100:g}", quantile(q, metric)) for q in qs]


LATENCY = "tickgate_delivery_latency_seconds"

# Row → panels: (kind, title, description, unit, [(legend, query)…]).
ROWS: list[tuple[str, list[tuple[str, str, str, str, list[tuple[str, str]]]]]] = [
    (
        "Now",
        [
            ("stat", "Replicas", "Replicas that answer Prometheus.", "short", [("", 'sum(up{job="tickgate", namespace=~"$namespace"})')]),
            ("stat", "Connections", "Open connections of all replicas.", "short", [("", total("tickgate_connections"))]),
            ("stat", "Deliveries", "Publications pushed to subscribers.", "mps", [("", rate("tickgate_deliveries_total"))]),
            ("stat", "Publications", "Publications received from publishers.", "mps", [("", rate("tickgate_publications_total"))]),
            ("stat", "Delivery p99", "From acceptance by a replica to the write to a socket.", "s", [("", quantile(0.99, LATENCY))]),
            ("alarm", "Gaps", "Gap notices to clients in the selected time range; no other messages are missing.", "short", [("", grown("tickgate_gaps_total"))]),
            ("alarm", "Links to Redis down", "Must be 0.", "short", [("", f"count(tickgate_redis_up{{{FILTER}}} == 0) or vector(0)")]),
            ("alarm", "Panics", "Any value other than 0 is a defect.", "short", [("", grown("tickgate_panics_total"))]),
        ],
    ),
    (
        "Connections",
        [
            ("lines", "Connections by replica", "Similar for all replicas, except in the hour after a rollout.", "short", [("{{instance}}", total("tickgate_connections", "instance"))]),
            ("lines", "Connections by endpoint", "Profiles of the configuration.", "short", [("{{endpoint}}", total("tickgate_connections", "endpoint"))]),
            ("lines", "Connection limit used", "Open connections as a share of the limit of each replica.", "percentunit", [("{{instance}}", f"{total('tickgate_connections', 'instance')} / {total('tickgate_connections_max', 'instance')}")]),
            ("bars", "Handshakes by outcome", "Every outcome other than accepted is a refused client.", "reqps", [("{{result}}", rate("tickgate_handshakes_total", "result"))]),
            ("bars", "TLS handshakes by outcome", "On both listeners, if they use TLS.", "reqps", [("{{result}}", rate("tickgate_tls_handshakes_total", "result"))]),
            ("lines", "Certificates", "Remaining validity of the listeners' certificates and of the client certificate for Redis.", "s", [("{{instance}} {{certificate}}", f"tickgate_certificate_expires_timestamp_seconds{{{FILTER}}} - time()")]),
            ("lines", "Duration of connections", "Median of the connections that ended, by endpoint.", "s", [("{{endpoint}}", quantile(0.5, "tickgate_connection_duration_seconds", "endpoint"))]),
            ("bars", "Disconnects by reason", "Which side closed connections, and why.", "cps", [("{{reason}}", rate("tickgate_disconnects_total", "reason"))]),
            ("bars", "Close codes", "Close frames sent (docs/wire.md has the table).", "cps", [("{{code}}", rate("tickgate_close_frames_total", "code"))]),
            ("lines", "Handshake duration", "From the request head to the admitted connection, including Redis.", "s", quantiles("tickgate_handshake_duration_seconds", 0.5, 0.99)),
            ("lines", "Users", "Users with a connection, by replica; a user on two replicas counts twice.", "short", [("{{instance}}", total("tickgate_users", "instance"))]),
            ("lines", "Subscriptions and topics", "Subscriptions, and topics that replicas follow in Redis.", "short", [("subscriptions", total("tickgate_subscriptions")), ("topics followed", total("tickgate_topics")), ("without a publication", total("tickgate_unpublished_topics"))]),
            ("lines", "Subscriptions by topics", "By the topic rule in the configuration.", "short", [("{{topics}}", total("tickgate_subscriptions", "topics"))]),
            ("bars", "Topics withdrawn", "Topics without a publication that were removed to make room: a client subscribes to very many names.", "cps", [("{{instance}}", rate("tickgate_topics_withdrawn_total", "instance"))]),
            ("lines", "Messages from clients", "Messages received, and errors sent in reply.", "mps", [("messages", rate("tickgate_messages_received_total")), ("errors {{code}}", rate("tickgate_errors_total", "code"))]),
        ],
    ),
    (
        "Deliveries",
        [
            ("lines", "Deliveries by replica", "Pushes to outboxes, one per subscriber.", "mps", [("{{instance}}", rate("tickgate_deliveries_total", "instance"))]),
            ("lines", "Deliveries by endpoint and class", "Deliveries by endpoint; event streams are the endpoint sse.", "mps", [("{{endpoint}} {{class}}", rate("tickgate_deliveries_total", "endpoint, class"))]),
            ("bars", "Publications by class and source", "none: refused before the topic was known.", "mps", [("{{class}} {{source}}", rate("tickgate_publications_total", "class, source"))]),
            ("bars", "Publications by source and outcome", "unknown: the publisher must retry with the same msg_id.", "mps", [("{{source}} {{result}}", rate("tickgate_publications_total", "source, result"))]),
            ("lines", "Traffic", "Bytes to and from clients.", "Bps", [("sent", rate("tickgate_sent_bytes_total")), ("received", rate("tickgate_received_bytes_total"))]),
            ("lines", "Writes", "System calls that write to clients.", "ops", [("{{instance}}", rate("tickgate_writes_total", "instance"))]),
            ("lines", "Frames per write", "Frames passed to the kernel in one call; rises with load.", "short", [("mean", f"{rate('tickgate_frames_per_write_sum')} / {rate('tickgate_frames_per_write_count')}")]),
        ],
    ),
    (
        "Latency",
        [
            ("lines", "Delivery latency", "From acceptance by a replica to the write to a socket (sampled).", "s", quantiles(LATENCY, 0.5, 0.9, 0.99, 0.999)),
            ("lines", "Delivery p99 by endpoint and class", "Latency by endpoint and class.", "s", [("{{endpoint}} {{class}}", quantile(0.99, LATENCY, "endpoint, class"))]),
            ("heatmap", "Delivery latency, distribution", "Share of deliveries in each bucket.", "s", [("{{le}}", f"sum by (le) (rate({LATENCY}_bucket{{{FILTER}}}[{RATE}]))")]),
            ("lines", "Deliveries over 100 ms", "Share of deliveries; the objective allows 1 %.", "percentunit", [("late", f"1 - sum(rate({LATENCY}_bucket{{{FILTER}, le=\"0.1\"}}[{RATE}])) / sum(rate({LATENCY}_count{{{FILTER}}}[{RATE}]))")]),
            ("lines", "Fan-out", "Time to push one publication to all subscribers of a shard.", "s", quantiles("tickgate_fan_out_duration_seconds", 0.5, 0.99)),
            ("lines", "Event loop lag p99", "Time that ready work waits for a worker.", "s", [("{{instance}}", quantile(0.99, "tickgate_event_loop_lag_seconds", "instance"))]),
        ],
    ),
    (
        "Slow consumers",
        [
            ("lines", "Slow connections", "Connections whose outbox is over its limit.", "short", [("{{instance}}", total("tickgate_slow_consumers", "instance"))]),
            ("lines", "Outbox bytes", "Bytes in all outboxes, and in the fullest one.", "bytes", [("{{instance}}", total("tickgate_outbox_bytes", "instance")), ("{{instance}} fullest", f"tickgate_outbox_bytes_highest{{{FILTER}}}")]),
            ("lines", "Conflated and dropped", "State values replaced by newer ones; event messages dropped (with a gap notice).", "mps", [("{{endpoint}} conflated", rate("tickgate_conflated_total", "endpoint")), ("{{endpoint}} dropped", rate("tickgate_dropped_total", "endpoint"))]),
            ("lines", "Caught up from the stream", "Subscriptions that lagged behind and were caught up.", "cps", [("{{endpoint}} {{class}}", rate("tickgate_lagged_total", "endpoint, class"))]),
            ("lines", "Closed as slow", "Sockets that accepted no data within the write timeout (4102).", "cps", [("closed", rate("tickgate_disconnects_total", match='reason="slow_consumer"'))]),
        ],
    ),
    (
        "Replay and gaps",
        [
            ("bars", "Gaps by reason", "backplane and failover: the gateway or Redis; retention and slow_consumer: the client.", "cps", [("{{reason}}", rate("tickgate_gaps_total", "reason"))]),
            ("bars", "Gaps by endpoint and class", "Which clients miss messages.", "cps", [("{{endpoint}} {{class}}", rate("tickgate_gaps_total", "endpoint, class"))]),
            ("bars", "Replay requests by result", "ring: from memory; stream: from Redis; gap and too_long: could not be replayed completely.", "reqps", [("{{result}}", rate("tickgate_replay_requests_total", "result"))]),
            ("lines", "Replayed messages", "Messages sent to clients that had missed them.", "mps", [("replayed", rate("tickgate_replayed_messages_total"))]),
            ("lines", "Replay duration", "From the request to the last replayed message.", "s", quantiles("tickgate_replay_duration_seconds", 0.5, 0.99)),
            ("lines", "Holes filled", "Missing messages fetched from the stream before delivery.", "cps", [("fills", rate("tickgate_fills_total"))]),
        ],
    ),
    (
        "Redis and its links",
        [
            ("lines", "Links up", "1 while the link works.", "short", [("{{instance}} {{link}}", f"tickgate_redis_up{{{FILTER}}}")]),
            ("lines", "Publish", "From the publisher's call to the response of Redis.", "s", quantiles("tickgate_redis_publish_duration_seconds", 0.5, 0.99)),
            ("lines", "Commands p99 by kind", "From sending to the response; lease and compare are batches.", "s", [("{{kind}}", quantile(0.99, "tickgate_redis_command_duration_seconds", "kind"))]),
            ("bars", "Commands by kind", "Commands and pipelines per second.", "ops", [("{{kind}}", rate("tickgate_redis_command_duration_seconds_count", "kind"))]),
            ("lines", "Stream lag", "Topics that are being compared or read, and the messages that the furthest behind lacks.", "short", [("{{instance}} topics", f"tickgate_topics_behind{{{FILTER}}}"), ("{{instance}} messages", f"tickgate_stream_lag_messages{{{FILTER}}}")]),
            ("lines", "Canary p99", "Round trip through pub/sub, once a second on each replica.", "s", [("{{instance}}", quantile(0.99, "tickgate_redis_canary_seconds", "instance"))]),
            ("lines", "Clock against Redis", "The replica's clock minus Redis's. Latencies are wrong by the difference between two replicas.", "s", [("{{instance}}", f"tickgate_redis_clock_skew_seconds{{{FILTER}}}")]),
            ("bars", "Errors by kind", "Redis errors by kind.", "cps", [("{{kind}}", rate("tickgate_redis_errors_total", "kind"))]),
            ("bars", "Reconnections to Redis", "Each is followed by a comparison of every topic.", "short", [("{{instance}} {{link}}", f"increase(tickgate_redis_reconnects_total{{{FILTER}}}[{RATE}])")]),
            ("lines", "Sentinels", "Sentinels that answer, whether they name no primary that can be trusted (1), and changes of the primary.", "short", [("{{instance}} answer", f"tickgate_redis_sentinels{{{FILTER}}}"), ("{{instance}} doubt", f"tickgate_redis_sentinels_doubt{{{FILTER}}}"), ("{{instance}} moves", f"increase(tickgate_redis_primary_moves_total{{{FILTER}}}[{RATE}])")]),
            ("lines", "Work queues", "Topics waiting to be compared with their stream, or to be read.", "short", [("{{instance}} {{queue}}", f"tickgate_work_queue_depth{{{FILTER}}}")]),
            ("lines", "Oldest work queue entry", "How long the oldest topic has waited; above readiness.queue_grace the replica is not ready.", "s", [("{{instance}} {{queue}}", f"tickgate_work_queue_oldest_seconds{{{FILTER}}}")]),
            ("lines", "Wait for a history connection", "The pool limits reconnect storms to the speed of Redis.", "s", quantiles("tickgate_redis_pool_wait_seconds", 0.5, 0.99)),
            ("lines", "Redis memory", "Used share of maxmemory; empty if there is no limit.", "percentunit", [("{{instance}}", f"tickgate_redis_memory_used_bytes{{{FILTER}}} / (tickgate_redis_memory_max_bytes{{{FILTER}}} > 0)")]),
            ("lines", "Redis persistence", "1 while its last write to disk succeeded.", "short", [("{{instance}}", f"tickgate_redis_persistence_ok{{{FILTER}}}")]),
            ("lines", "Redis replicas", "Connected replicas, and the time since the slowest one reported.", "short", [("replicas", f"max(tickgate_redis_replicas{{{FILTER}}})"), ("lag in seconds", f"max(tickgate_redis_replication_lag_seconds{{{FILTER}}})")]),
            ("lines", "Blocked Redis clients", "Clients in a blocking command, such as consumers that wait for entries.", "short", [("blocked", f"max(tickgate_redis_blocked_clients{{{FILTER}}})")]),
            ("bars", "Redis changes and losses", "Changes of server or dataset, and acknowledged publications that were lost.", "short", [("changes of server", f"sum(increase(tickgate_generation_changes_total{{{FILTER}}}[{RATE}]))"), ("lost publications", f"sum(increase(tickgate_lost_publications_total{{{FILTER}}}[{RATE}]))")]),
        ],
    ),
    (
        "Drain and registry",
        [
            ("lines", "Draining", "1 while a replica drains.", "short", [("{{instance}}", f"tickgate_draining{{{FILTER}}}")]),
            ("lines", "Closed by drain", "Waves over drain.spread, not a spike.", "cps", [("{{instance}}", rate("tickgate_disconnects_total", "instance", 'reason="drain"'))]),
            ("lines", "Replicas in the registry", "According to the leases in Redis.", "short", [("replicas", f"max(tickgate_replicas{{{FILTER}}})")]),
            ("lines", "Sessions swept", "Sessions of replicas that ended without a drain.", "cps", [("swept", rate("tickgate_sessions_swept_total"))]),
        ],
    ),
    (
        "HTTP and identity",
        [
            ("bars", "HTTP requests", "API and probes.", "reqps", [("{{route}} {{status}}", rate("tickgate_http_requests_total", "route, status"))]),
            ("lines", "HTTP duration p99", "Until the head of the response.", "s", [("{{route}}", quantile(0.99, "tickgate_http_request_duration_seconds", "route"))]),
            ("lines", "Accepted tokens", "At handshakes, in messages, and for tickets.", "cps", [("accepted", rate("tickgate_tokens_accepted_total"))]),
            ("bars", "Key set failures", "Failed fetches; the last good keys stay in use.", "cps", [("{{instance}}", rate("tickgate_key_set_failures_total", "instance"))]),
            ("lines", "Age of the key set", "Time since the last successful fetch; keys older than auth.jwks_age_max are not used.", "s", [("{{instance}}", f"time() - (tickgate_key_set_fetched_timestamp_seconds{{{FILTER}}} > 0)")]),
            ("lines", "Failed reloads", "1 while a changed file is invalid and the previous settings stay in effect.", "short", [("{{instance}}", f"tickgate_reload_failed{{{FILTER}}}")]),
            ("bars", "Reloads", "Reloads of settings and secrets, by result.", "short", [("{{instance}} {{result}}", f"increase(tickgate_reloads_total{{{FILTER}}}[{RATE}])")]),
            ("lines", "Time since the last reload", "Replicas that differ use different files.", "s", [("{{instance}}", f"time() - tickgate_reloaded_timestamp_seconds{{{FILTER}}}")]),
            ("bars", "Log lines dropped", "The log was not read, or not fast enough.", "cps", [("{{instance}}", rate("tickgate_log_lines_dropped_total", "instance"))]),
            ("bars", "Refused tokens and keys", "By reason.", "cps", [("{{reason}}", rate("tickgate_auth_failures_total", "reason"))]),
            ("bars", "API keys", "Requests by name of the key and result.", "reqps", [("{{key}} {{result}}", rate("tickgate_api_key_requests_total", "key, result"))]),
            ("bars", "Rate limited", "By scope.", "cps", [("{{scope}}", rate("tickgate_rate_limited_total", "scope"))]),
        ],
    ),
    (
        "Exchange feed",
        [
            ("lines", "Feed status", "1 for the current state, on the publishing replica.", "short", [("{{status}}", f"max by (status) (tickgate_feed_status{{{FILTER}}})"), ("configured", f"max(tickgate_feed_enabled{{{FILTER}}})")]),
            ("lines", "Publishing the feed", "One replica at a time.", "short", [("{{instance}}", f"tickgate_feed_holder{{{FILTER}}}")]),
            ("lines", "Age of the newest data", "Time since the last data, by kind, on the publishing replica.", "s", [("{{kind}}", f"min by (kind) (time() - (tickgate_feed_data_timestamp_seconds{{{FILTER}}} > 0))")]),
            ("bars", "Frames by kind", "Frames received from the exchange.", "ops", [("{{kind}}", rate("tickgate_feed_frames_total", "kind")), ("dropped", rate("tickgate_feed_frames_dropped_total"))]),
            ("bars", "Bad frames", "Invalid frames, by reason.", "cps", [("{{reason}}", rate("tickgate_feed_bad_frames_total", "reason"))]),
            ("lines", "Latency of trades", "From the exchange's timestamp to arrival; includes the clock difference.", "s", quantiles("tickgate_feed_latency_seconds", 0.5, 0.99)),
            ("bars", "Connections to the exchange", "Connections that ended, by reason, and those that were replaced in time.", "short", [("{{reason}}", f"sum by (reason) (increase(tickgate_feed_reconnects_total{{{FILTER}}}[{RATE}]))"), ("replaced", f"sum(increase(tickgate_feed_rotations_total{{{FILTER}}}[{RATE}]))")]),
            ("lines", "Symbols", "Followed symbols, and those without current values.", "short", [("followed", f"max(tickgate_feed_symbols{{{FILTER}}})"), ("stale", f"max(tickgate_feed_symbols_stale{{{FILTER}}})"), ("unknown", f"max(tickgate_feed_symbols_unknown{{{FILTER}}})"), ("refused", f"max(tickgate_feed_symbols_refused{{{FILTER}}})"), ("skipped", f"max(tickgate_feed_symbols_skipped{{{FILTER}}})")]),
            ("lines", "Streams", "Streams required by the followed symbols, and streams that deliver data.", "short", [("needed", f"max(tickgate_feed_streams{{{FILTER}}})"), ("live", f"max(tickgate_feed_streams_live{{{FILTER}}})"), ("subscribed again", grown("tickgate_feed_resubscriptions_total"))]),
            ("bars", "Trades repaired and missing", "Fetched afterwards, dropped as duplicates, or reported as a gap.", "cps", [("fetched", rate("tickgate_feed_backfilled_total")), ("duplicates", rate("tickgate_feed_repeats_total")), ("missing", rate("tickgate_feed_missing_trades_total")), ("gaps", rate("tickgate_feed_gaps_total"))]),
            ("lines", "Weight of requests", "The exchange allows 6,000 per minute and address; the feed stops at 4,000.", "short", [("weight", f"max(tickgate_feed_rest_weight{{{FILTER}}})")]),
            ("bars", "Missing from the recording", "Items dropped because the disk was too slow (serve --record).", "cps", [("missing", rate("tickgate_feed_recording_dropped_total"))]),
        ],
    ),
    (
        "Process",
        [
            ("lines", "Workers busy", "Share of the time that workers are busy.", "percentunit", [("{{instance}}", f"tickgate_runtime_busy_ratio{{{FILTER}}}")]),
            ("lines", "Tasks", "Tasks of the process, and those waiting for a worker.", "short", [("{{instance}}", f"tickgate_runtime_tasks{{{FILTER}}}"), ("{{instance}} waiting", f"tickgate_runtime_queue_depth{{{FILTER}}}")]),
            ("lines", "Polls p99", "How long a task occupies its worker at a time.", "s", [("{{instance}}", quantile(0.99, "tickgate_task_poll_duration_seconds", "instance"))]),
            ("lines", "CPU", "Cores in use.", "short", [("{{instance}}", rate("process_cpu_seconds_total", "instance"))]),
            ("lines", "Memory", "Resident memory.", "bytes", [("{{instance}}", total("process_resident_memory_bytes", "instance"))]),
            ("lines", "Allocator", "Memory that the allocator holds, and address space that it has reserved.", "bytes", [("{{instance}} held", f"tickgate_allocator_committed_bytes{{{FILTER}}}"), ("{{instance}} reserved", f"tickgate_allocator_reserved_bytes{{{FILTER}}}")]),
            ("lines", "Memory per connection", "Resident memory divided by connections; too high if there are few connections.", "bytes", [("{{instance}}", f"{total('process_resident_memory_bytes', 'instance')} / ({total('tickgate_connections', 'instance')} > 0)")]),
            ("lines", "File descriptors", "Share of the limit.", "percentunit", [("{{instance}}", f"{total('process_open_fds', 'instance')} / {total('process_max_fds', 'instance')}")]),
            ("table", "Names", "Names of the replicas (`server.name`).", "short", [("", f"tickgate_replica_info{{{FILTER}}}")]),
            ("table", "Versions", "Version of each replica.", "short", [("", f"tickgate_build_info{{{FILTER}}}")]),
        ],
    ),
]

WIDTH = {"stat": 3, "alarm": 3, "lines": 8, "bars": 8, "heatmap": 8, "table": 16}
HEIGHT = {"stat": 4, "alarm": 4}
KIND = {"stat": "stat", "alarm": "stat", "lines": "timeseries", "bars": "timeseries", "heatmap": "heatmap", "table": "table"}


def panel(number: int, kind: str, title: str, description: str, unit: str, queries: list[tuple[str, str]]) -> dict:
    """One panel, not yet placed."""
    instant = kind in ("alarm", "table")
    shape = {"heatmap": "heatmap", "table": "table"}.get(kind, "time_series")
    targets = [
        {"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": query, "legendFormat": legend or "__auto",
         "format": shape, "instant": instant, "range": not instant}
        for at, (legend, query) in enumerate(queries)
    ]
    defaults: dict = {"unit": unit}
    options: dict = {}
    if kind in ("lines", "bars"):
        defaults |= {"min": 0, "custom": {"drawStyle": kind.removesuffix("s").replace("bar", "bars"), "fillOpacity": 60 if kind == "bars" else 8,
                     "lineWidth": 1, "showPoints": "never", "stacking": {"mode": "normal" if kind == "bars" else "none", "group": "A"}}}
        options = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
                   "tooltip": {"mode": "multi", "sort": "desc"}}
    elif kind in ("stat", "alarm"):
        steps = [{"color": "green", "value": None}] + ([{"color": "red", "value": 1}] if kind == "alarm" else [])
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}}
        options = {"colorMode": "background" if kind == "alarm" else "value", "graphMode": "none" if instant else "area",
                   "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    elif kind == "heatmap":
        defaults = {}
        options = {"calculate": False, "yAxis": {"unit": unit}, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64}}
    return {
        "id": number, "type": KIND[kind], "title": title, "description": description, "datasource": DATASOURCE,
        "targets": targets, "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
    }


def variable(name: str, label: str, metric: str) -> dict:
    """A choice among the values of a label."""
    query = f"label_values({metric}, {name})"
    return {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [], "hide": 0,
    }


def build() -> dict:
    """The whole dashboard: rows under each other, panels from left to right."""
    panels, y, number = [], 0, 0
    for title, entries in ROWS:
        number += 1
        panels.append({"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        x = tallest = 0
        for entry in entries:
            number += 1
            width, height = WIDTH[entry[0]], HEIGHT.get(entry[0], 8)
            if x + width > 24:
                x, y, tallest = 0, y + tallest, 0
            panels.append(panel(number, *entry) | {"gridPos": {"x": x, "y": y, "w": width, "h": height}})
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return {
        "uid": "tickgate", "title": "Tickgate", "description": "Connections, deliveries, latency, gaps, replay, Redis and drains of all replicas.",
        "tags": ["tickgate"], "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "10s", "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"}, "timepicker": {}, "fiscalYearStartMonth": 0, "links": [], "liveNow": False,
        "annotations": {"list": [{
            "name": "Drains", "datasource": DATASOURCE, "enable": True, "iconColor": "orange", "hide": False,
            "expr": 'tickgate_draining{job="tickgate", namespace=~"$namespace"} == 1', "titleFormat": "{{instance}} drains",
        }]},
        "templating": {"list": [
            {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "refresh": 1, "options": [],
             "current": {"text": "Prometheus", "value": "prometheus"}, "hide": 0, "multi": False, "includeAll": False},
            variable("namespace", "Namespace", 'tickgate_build_info{job="tickgate"}'),
            variable("instance", "Replica", 'tickgate_build_info{job="tickgate", namespace=~"$namespace"}'),
        ]},
        "panels": panels,
    }


def text() -> str:
    """The dashboard as Grafana reads it."""
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
