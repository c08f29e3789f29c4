"""Define our own tables beside the pool's, in the same metadata.

Every decision can be reconstructed from them: received results (``result_batches``, ``log_scores``), pending work
(``scoring_queue``, ``servers_monitor_review``), and changes of assignments (``assignment_changes``).
"""

import sqlalchemy as sa

from schema.health import MAX_REASON
from schema.limits import MAX_REJECTED_PAYLOAD
from schema.tables.columns import bigint_u, blob, boolean, datetime6, int_u, text_bin, ulid
from schema.tables.pool import (
    TABLE_OPTIONS,
    api_keys,
    metadata,
    of_server,
    server_scores,
)

Column = sa.Column

result_batches = sa.Table(
    "result_batches",
    metadata,
    Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
    Column("batch", ulid(), primary_key=True),
    Column("received_on", datetime6(), nullable=False),
    Column("stored", sa.Integer, nullable=False),
    # JSON: the rejections in its ack, repeated if the batch is sent again; null if there were none.
    Column("rejected", sa.Text),
    sa.Index("result_batches_received", "received_on"),
    **TABLE_OPTIONS,
)
"""Committed batches. The primary key prevents a batch from counting twice."""

scoring_queue = sa.Table(
    "scoring_queue",
    metadata,
    of_server(primary_key=True),
    # When a result last made its score outdated; null if no result is waiting.
    Column("due_on", datetime6()),
    # Version counter of the server's results (optimistic locking): it reveals results stored since an unlocked read.
    Column("stored", bigint_u(), nullable=False, server_default="0"),
    sa.Index("scoring_queue_due", "due_on"),
    **TABLE_OPTIONS,
)
"""One row per server. Ingest locks it before it writes results of the server, the scorer before it writes the score."""

score_traces = sa.Table(
    "score_traces",
    metadata,
    of_server(primary_key=True),
    # W3C trace context of the newest traced batch with a result of the server that the scorer has not seen yet.
    Column("trace_context", text_bin(55), nullable=False),
    Column("stored_on", datetime6(), nullable=False),
    sa.Index("score_traces_stored", "stored_on"),
    **TABLE_OPTIONS,
)
"""Traces that continue with the score of a server. Beside the queue, whose rows are updated with every result."""

rejected_messages = sa.Table(
    "rejected_messages",
    metadata,
    Column("id", bigint_u(), primary_key=True),
    Column("topic", text_bin(500), nullable=False),
    Column("payload_hash", text_bin(64), nullable=False),
    Column("reason", sa.String(1000), nullable=False),
    Column("payload", blob(MAX_REJECTED_PAYLOAD), nullable=False),
    # Size of the whole payload, of which at most 64 KiB are kept.
    Column("bytes", sa.Integer, nullable=False),
    Column("times", sa.Integer, nullable=False, server_default="1"),
    Column("first_seen", datetime6(), nullable=False),
    Column("last_seen", datetime6(), nullable=False),
    sa.UniqueConstraint("topic", "payload_hash", name="rejected_messages_topic"),
    sa.Index("rejected_messages_seen", "last_seen"),
    **TABLE_OPTIONS,
)
"""Undecodable messages, for diagnosis."""

monitor_presence = sa.Table(
    "monitor_presence",
    metadata,
    Column("tls_name", sa.String(255), primary_key=True),
    Column("online", boolean(), nullable=False),
    # Start of the current online or offline period.
    Column("since", datetime6(), nullable=False),
    # Arrival of its last status.
    Column("seen", datetime6(), nullable=False),
    # JSON: the status message itself.
    Column("status", sa.Text, nullable=False),
    sa.Index("monitor_presence_seen", "seen"),
    **TABLE_OPTIONS,
)
"""The last status of every agent; one row for both of its protocols."""

assignment_changes = sa.Table(
    "assignment_changes",
    metadata,
    Column("id", bigint_u(), primary_key=True),
    of_server(),
    Column("monitor_id", int_u(), nullable=False),
    # Null: the pair was created.
    Column("before_status", sa.String(10)),
    Column("after_status", sa.String(10), nullable=False),
    Column("reason", sa.String(255), nullable=False),
    Column("changed_on", datetime6(), nullable=False),
    sa.Index("assignment_changes_server", "server_id", "changed_on"),
    sa.Index("assignment_changes_pair", "monitor_id", "server_id", "id"),
    sa.Index("assignment_changes_on", "changed_on"),
    **TABLE_OPTIONS,
)
"""Every status change of a pair, with the rule that made it."""

server_traceroutes = sa.Table(
    "server_traceroutes",
    metadata,
    Column("id", bigint_u(), primary_key=True),
    of_server(),
    Column("monitor_id", int_u(), nullable=False),
    # The address to which the route led.
    Column("ip", sa.String(40), nullable=False),
    # When its result arrived.
    Column("traced_on", datetime6(), nullable=False),
    # Whether the server answered an NTP request at that time.
    Column("answered", boolean(), nullable=False),
    # JSON: the list of traces in the agent's answer, checked.
    Column("traces", sa.Text, nullable=False),
    sa.Index("server_traceroutes_server", "server_id", "traced_on"),
    sa.Index("server_traceroutes_on", "traced_on"),
    **TABLE_OPTIONS,
)
"""Routes from monitors to servers, traced on request of operators."""

selector_seen = sa.Table(
    "selector_seen",
    metadata,
    Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
    Column("status", sa.String(10), nullable=False),
    Column("ip", sa.String(40)),
    Column("account_id", int_u()),
    # The account's limit of monitors per server.
    Column("per_server_limit", sa.String(20), nullable=False),
    Column("gone", boolean(), nullable=False),
    **TABLE_OPTIONS,
)
"""The last known state of every monitor, by which the selector detects changes, even those made while it was not
running."""

monitor_health = sa.Table(
    "monitor_health",
    metadata,
    Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
    # A value of schema.health.HealthLabel.
    Column("label", text_bin(30), primary_key=True),
    # End of the hour in which it was raised.
    Column("since", datetime6(), nullable=False),
    # In words, with the figures of the last count.
    Column("reason", sa.String(MAX_REASON), nullable=False),
    # JSON: the figures as numbers; times in seconds, shares from 0 to 1.
    Column("figures", sa.Text, nullable=False),
    **TABLE_OPTIONS,
)
"""The labels that each monitor has now. A label that is cleared has no row."""

monitor_hours = sa.Table(
    "monitor_hours",
    metadata,
    # Start of the hour.
    Column("hour", sa.DateTime, primary_key=True),
    Column("monitor_id", int_u(), primary_key=True, autoincrement=False),
    # Servers of which it had results.
    Column("servers", sa.Integer, nullable=False),
    Column("probes", sa.Integer, nullable=False),
    # Those to servers that other monitors reached in the same hour, how many of these were lost, and how many would
    # have been with the losses of the others.
    Column("judged", sa.Integer, nullable=False),
    Column("lost", sa.Integer, nullable=False),
    Column("expected_lost", sa.Double, nullable=False),
    # Median over servers of its offset minus the median offset of the others, in seconds, and how many servers.
    Column("clock_offset", sa.Double),
    Column("clock_servers", sa.Integer, nullable=False),
    # Median rtt of its ten nearest servers, in seconds; null with fewer.
    Column("nearest_rtt", sa.Double),
    **TABLE_OPTIONS,
)
"""What each monitor measured in each hour, counted once soon after its end; none for an hour without results."""

health_progress = sa.Table(
    "health_progress",
    metadata,
    Column("id", int_u(), primary_key=True, autoincrement=False),
    # End of the last hour that was counted; null before the first one.
    Column("counted_until", sa.DateTime),
    **TABLE_OPTIONS,
)
"""One row, which the selector that counts an hour locks."""

certificates = sa.Table(
    "certificates",
    metadata,
    # Hexadecimal, in lower case, without leading zeros.
    Column("serial", text_bin(40), primary_key=True),
    # monitor or server.
    Column("kind", sa.String(10), nullable=False),
    # Full name of the monitor, or the first host of the server.
    Column("name", text_bin(253), nullable=False),
    # SHA-256 of the signing request, hexadecimal.
    Column("request_hash", text_bin(64), nullable=False),
    # PEM: the certificate, then those between it and the root.
    Column("chain", sa.Text, nullable=False),
    Column("not_before", datetime6(), nullable=False),
    Column("not_after", datetime6(), nullable=False),
    Column("issued_on", datetime6(), nullable=False),
    Column("revoked_on", datetime6()),
    sa.Index("certificates_name", "name", "request_hash", "issued_on"),
    sa.Index("certificates_not_after", "not_after"),
    **TABLE_OPTIONS,
)
"""Every certificate that the CA has handed out. Revocation lists are made from it."""

ledger_origin = sa.Table(
    "ledger_origin",
    metadata,
    Column("id", int_u(), primary_key=True, autoincrement=False),
    # It held rows of the pool when we adopted it.
    Column("adopted", boolean(), nullable=False),
    Column("recorded_on", datetime6(), nullable=False),
    **TABLE_OPTIONS,
)
"""One row: the origin of this ledger. In an adopted one, the pool's rows are removed only after an explicit setting."""

api_key_ends = sa.Table(
    "api_key_ends",
    metadata,
    Column("api_key_id", int_u(), sa.ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    # The key is invalid from this time on: at once when revoked, ten minutes later when replaced.
    Column("ends_on", datetime6(), nullable=False),
    Column("reason", sa.String(255), nullable=False),
    **TABLE_OPTIONS,
)
"""The end of the validity of API keys; a key without a row here is valid."""

registration_details = sa.Table(
    "registration_details",
    metadata,
    Column("registration_id", int_u(), sa.ForeignKey("monitor_registrations.id", ondelete="CASCADE"), primary_key=True),
    # Null: made by a host without a valid key; else the name of the monitor whose key it showed.
    Column("renews_name", sa.String(255)),
    # Who confirmed or rejected it, when, and the reason given.
    Column("decided_by", sa.String(255)),
    Column("decided_on", datetime6()),
    Column("reason", sa.String(500)),
    # The key that was handed out, when, and its text, sealed under the Registration-ID, while it may be repeated.
    Column("api_key_id", int_u()),
    Column("handed_on", datetime6()),
    Column("sealed_key", text_bin(255)),
    **TABLE_OPTIONS,
)
"""What the pool's ``monitor_registrations`` has no column for; one row per registration of ours."""

host_certificates = sa.Table(
    "host_certificates",
    metadata,
    Column("api_key_id", int_u(), sa.ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    # The certificate, which is in the table of all certificates, and the monitor that it is for.
    Column("serial", text_bin(40), nullable=False),
    Column("name", text_bin(253), nullable=False),
    # Its private key, sealed with the API key, while it may be handed out again.
    Column("sealed_key", text_bin(1000), nullable=False),
    Column("issued_on", datetime6(), nullable=False),
    sa.Index("host_certificates_issued", "issued_on"),
    **TABLE_OPTIONS,
)
"""The latest certificate whose key was made here, for hosts whose agents cannot make one; for ten minutes each."""

registration_sources = sa.Table(
    "registration_sources",
    metadata,
    # An IPv4 address, or the /64 of an IPv6 address.
    Column("network", text_bin(45), primary_key=True),
    # JSON: the times of its latest registrations, in seconds since 1970.
    Column("recent", sa.String(255), nullable=False),
    Column("begun", sa.Integer, nullable=False, server_default="0"),
    Column("refused", sa.Integer, nullable=False, server_default="0"),
    # The kind of the latest refusal.
    Column("refusal", sa.String(30)),
    Column("seen_on", datetime6(), nullable=False),
    sa.Index("registration_sources_seen", "seen_on"),
    **TABLE_OPTIONS,
)
"""Networks that registrations came from, for their limit and for operators."""

user_identities = sa.Table(
    "user_identities",
    metadata,
    # As the provider of OpenID Connect states them.
    Column("issuer", text_bin(255), primary_key=True),
    Column("subject", text_bin(255), primary_key=True),
    Column("user_id", int_u(), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("linked_on", datetime6(), nullable=False),
    sa.UniqueConstraint("user_id", "issuer", name="user_identities_user"),
    **TABLE_OPTIONS,
)
"""The logins of the pool's users at providers of OpenID Connect: one for each user and provider."""

ended_sessions = sa.Table(
    "ended_sessions",
    metadata,
    # As in the session's cookie.
    Column("id", text_bin(22), primary_key=True),
    # When its cookie is valid no longer in any case.
    Column("forget_on", datetime6(), nullable=False),
    sa.Index("ended_sessions_forget", "forget_on"),
    **TABLE_OPTIONS,
)
"""The sessions that people have ended by logging out; all others are not stored."""

alert_rounds = sa.Table(
    "alert_rounds",
    metadata,
    Column("id", int_u(), primary_key=True, autoincrement=False),
    Column("evaluated_on", datetime6(), nullable=False),
    **TABLE_OPTIONS,
)
"""One row, which the notifier locks and writes in each evaluation, so that only one evaluates at a time."""

alerts = sa.Table(
    "alerts",
    metadata,
    Column("kind", text_bin(32), primary_key=True),
    # Id of a server, full name of a monitor, or empty for the pool.
    Column("subject", text_bin(255), primary_key=True),
    # Whose alert it is; null: the operators'.
    Column("account_id", int_u()),
    # What people were told: true after it was raised, false after it was cleared.
    Column("raised", boolean(), nullable=False),
    Column("raised_on", datetime6()),
    # Since when the facts contradict that; null if they agree.
    Column("differs_since", datetime6()),
    Column("name", sa.String(300), nullable=False),
    Column("detail", sa.String(500), nullable=False),
    **TABLE_OPTIONS,
)
"""The alerts that are raised, or may be soon. One that is cleared has no row."""

alert_channels = sa.Table(
    "alert_channels",
    metadata,
    Column("id", int_u(), primary_key=True),
    # Null: a channel of the operators.
    Column("account_id", int_u(), sa.ForeignKey("accounts.id", ondelete="CASCADE")),
    # mail or url.
    Column("kind", text_bin(10), nullable=False),
    # The address, encrypted with a key that is derived from the pepper and the salt; and its harmless part.
    Column("sealed", sa.Text, nullable=False),
    Column("salt", text_bin(32), nullable=False),
    Column("shown", sa.String(255), nullable=False),
    # The groups of alerts that it gets, separated by commas: server, monitor, pool.
    Column("about", text_bin(100), nullable=False),
    # Local time, such as 22:00-07:00; null: none.
    Column("quiet", text_bin(11)),
    Column("zone", text_bin(64), nullable=False),
    # At most one message in so many minutes.
    Column("digest_minutes", sa.Integer, nullable=False),
    Column("created_on", datetime6(), nullable=False),
    Column("sent_on", datetime6()),
    # Since when messages cannot be delivered, and why.
    Column("failing_since", datetime6()),
    Column("failure", sa.String(500)),
    sa.Index("alert_channels_account", "account_id"),
    **TABLE_OPTIONS,
)
"""Where alerts are sent: an address for mail, or a URL of a chat or webhook, of an account or of the operators."""

alert_changes = sa.Table(
    "alert_changes",
    metadata,
    Column("id", bigint_u(), primary_key=True),
    Column("channel_id", int_u(), sa.ForeignKey("alert_channels.id", ondelete="CASCADE"), nullable=False),
    Column("kind", text_bin(32), nullable=False),
    Column("subject", text_bin(255), nullable=False),
    Column("raised", boolean(), nullable=False),
    Column("title", sa.String(300), nullable=False),
    Column("text", sa.Text, nullable=False),
    Column("changed_on", datetime6(), nullable=False),
    sa.Index("alert_changes_channel", "channel_id", "id"),
    **TABLE_OPTIONS,
)
"""Outbox: changes of alerts that no message to the channel has yet, written in the transaction of the change."""

alert_messages = sa.Table(
    "alert_messages",
    metadata,
    # At most one message per channel is on its way, so that none overtakes another.
    Column(
        "channel_id",
        int_u(),
        sa.ForeignKey("alert_channels.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    # Identifies the message to its receiver in every attempt.
    Column("key", text_bin(32), nullable=False, quote=True),
    Column("title", sa.String(300), nullable=False),
    Column("body", sa.Text, nullable=False),
    Column("composed_on", datetime6(), nullable=False),
    Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # Time of the next attempt; during one, the time at which its process counts as dead.
    Column("due_on", datetime6(), nullable=False),
    sa.Index("alert_messages_due", "due_on"),
    **TABLE_OPTIONS,
)
"""The messages that are being delivered."""

shared_locks = sa.Table(
    "shared_locks",
    metadata,
    # The kind of what is locked, and its name or id: "account 7".
    Column("name", text_bin(300), primary_key=True),
    Column("times", bigint_u(), nullable=False),
    **TABLE_OPTIONS,
)
"""Locks that hold on all nodes of a cluster (:mod:`runtime.db.locks`). Their rows stay: one per monitor and account."""

sa.Index("api_keys_lookup", api_keys.c.token_lookup)

# For the frequent queries of all monitors' pairs by status.
sa.Index("server_scores_monitor_status", server_scores.c.monitor_id, server_scores.c.status, server_scores.c.server_id)
