"""Define the pool's existing tables, column by column as in its MySQL 8 database.

They are a contract with programs that are not ours: names, types, keys and defaults must not change. Times are UTC
without a zone. JSON is stored in text columns; its keys are named beside them.
"""

from typing import Any, Final

import sqlalchemy as sa

from schema.tables.columns import (
    bigint_u,
    boolean,
    datetime6,
    int_u,
    mediumint,
    modified_on,
    tinyint_u,
)

metadata = sa.MetaData()

Column = sa.Column
_ip_version = sa.Enum("v4", "v6", name="ip_version")
TABLE_OPTIONS: Final[dict[str, Any]] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("row_format", "DYNAMIC"))
}
"""Options of every table that we create. The row format is explicit, since a server's default may limit keys to 767
bytes, too few for names of 255 characters (error 1709)."""


def of_server(*, primary_key: bool = False) -> sa.Column[int]:
    """Return the ``server_id`` column of a table whose rows are deleted with their server."""
    return Column(
        "server_id",
        int_u(),
        sa.ForeignKey("servers.id", ondelete="CASCADE"),
        primary_key=primary_key,
        autoincrement=False,
        nullable=False,
    )


accounts = sa.Table(
    "accounts",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("id_token", sa.String(36), unique=True),
    Column("name", sa.String(255)),
    Column("organization_name", sa.String(150)),
    Column("organization_url", sa.String(150)),
    Column("public_profile", boolean(), nullable=False, server_default="0"),
    Column("url_slug", sa.String(150), unique=True),
    # {"monitor_limit": int, "monitors_per_server_limit": int, "monitor_enabled": bool}
    Column("flags", sa.JSON),
    Column("created_on", sa.DateTime, nullable=False),
    modified_on(),
    Column("stripe_customer_id", sa.String(255), unique=True),
    **TABLE_OPTIONS,
)

users = sa.Table(
    "users",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("id_token", sa.String(36), unique=True),
    Column("email", sa.String(255), nullable=False, unique=True),
    Column("name", sa.String(255)),
    Column("username", sa.String(40), unique=True),
    Column("public_profile", boolean(), nullable=False, server_default="0"),
    Column("deletion_on", sa.DateTime),
    **TABLE_OPTIONS,
)

account_users = sa.Table(
    "account_users",
    metadata,
    Column("account_id", int_u(), sa.ForeignKey("accounts.id"), primary_key=True),
    Column("user_id", int_u(), sa.ForeignKey("users.id"), primary_key=True),
    **TABLE_OPTIONS,
)

monitors = sa.Table(
    "monitors",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("id_token", sa.String(36), unique=True),
    Column("type", sa.Enum("monitor", "score", name="monitor_type"), nullable=False, server_default="monitor"),
    Column("user_id", int_u(), sa.ForeignKey("users.id")),
    Column("account_id", int_u(), sa.ForeignKey("accounts.id")),
    Column("hostname", sa.String(255), nullable=False, server_default=""),
    Column("location", sa.String(255), nullable=False, server_default=""),
    Column("ip", sa.String(40)),
    Column("ip_version", _ip_version),
    Column("tls_name", sa.String(255)),
    Column("api_key", sa.String(64), unique=True),
    Column(
        "status", sa.Enum("pending", "testing", "active", "paused", "deleted", name="monitor_status"), nullable=False
    ),
    # {"samples": int, "nat_ip": str, "base_checks": [str], "otlp_log_level": str}
    Column("config", sa.Text, nullable=False),
    Column("client_version", sa.String(255), nullable=False, server_default=""),
    Column("last_seen", datetime6()),
    Column("last_submit", datetime6()),
    Column("created_on", sa.DateTime, nullable=False),
    Column("deleted_on", sa.DateTime),
    Column("is_current", boolean(), server_default="1"),
    sa.UniqueConstraint("tls_name", "ip_version", name="monitors_tls_name"),
    sa.UniqueConstraint("ip", "is_current", name="monitors_ip"),
    sa.Index("monitors_type_status", "type", "status"),
    **TABLE_OPTIONS,
)

servers = sa.Table(
    "servers",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("ip", sa.String(40), nullable=False, unique=True),
    Column("ip_version", _ip_version, nullable=False, server_default="v4"),
    Column("user_id", int_u(), sa.ForeignKey("users.id")),
    Column("account_id", int_u(), sa.ForeignKey("accounts.id")),
    Column("hostname", sa.String(255)),
    Column("stratum", tinyint_u()),
    Column("in_pool", tinyint_u(), nullable=False, server_default="0"),
    Column("in_server_list", tinyint_u(), nullable=False, server_default="0"),
    Column("netspeed", int_u(), nullable=False, server_default="10000"),
    Column("netspeed_target", int_u(), nullable=False, server_default="10000"),
    Column("created_on", sa.DateTime, nullable=False),
    modified_on("updated_on"),
    Column("score_ts", sa.DateTime),
    Column("score_raw", sa.Double, nullable=False, server_default="0"),
    Column("deletion_on", sa.Date),
    # {"port": int}, in devel only
    Column("flags", sa.String(4096), nullable=False, server_default="{}"),
    sa.Index("servers_score_ts", "score_ts"),
    sa.Index("servers_deletion_on", "deletion_on"),
    **TABLE_OPTIONS,
)

server_scores = sa.Table(
    "server_scores",
    metadata,
    Column("id", bigint_u(), primary_key=True),
    Column("monitor_id", int_u(), sa.ForeignKey("monitors.id"), nullable=False),
    of_server(),
    Column("score_ts", sa.DateTime),
    Column("score_raw", sa.Double, nullable=False, server_default="0"),
    Column("stratum", tinyint_u()),
    Column(
        "status",
        sa.Enum("candidate", "testing", "active", "paused", name="pair_status"),
        nullable=False,
        server_default="candidate",
    ),
    Column("queue_ts", sa.DateTime),
    Column("created_on", sa.DateTime, nullable=False),
    modified_on(),
    Column("constraint_violation_type", sa.String(50)),
    Column("constraint_violation_since", sa.DateTime),
    Column("last_constraint_check", sa.DateTime),
    Column("pause_reason", sa.String(20)),
    sa.UniqueConstraint("server_id", "monitor_id", name="server_scores_pair"),
    sa.Index("server_scores_monitor_server", "monitor_id", "server_id"),
    sa.Index("server_scores_monitor_ts", "monitor_id", "score_ts"),
    sa.Index("server_scores_violation", "constraint_violation_type", "constraint_violation_since"),
    sa.Index("server_scores_paused", "status", "last_constraint_check", "pause_reason"),
    **TABLE_OPTIONS,
)

log_scores = sa.Table(
    "log_scores",
    metadata,
    Column("id", bigint_u(), primary_key=True),
    Column("monitor_id", int_u(), sa.ForeignKey("monitors.id")),  # in a scorer's row: the scorer
    of_server(),
    Column("ts", sa.DateTime, nullable=False),
    Column("score", sa.Double, nullable=False, server_default="0"),
    Column("step", sa.Double, nullable=False, server_default="0"),
    Column("offset", sa.Double, quote=True),  # seconds, positive: the server is ahead
    Column("rtt", mediumint()),  # microseconds
    # {"leap": int, "stratum": int, "no_response": bool, "error": str, "warning": str, "from_ls_id": int,
    #  "from_ss_id": int}
    Column("attributes", sa.Text),
    # The pool's key (server_id, ts), extended: reviews sum up 24 h of results, scoring needs the newest ones, and both
    # read only this index. A second index of the first two columns would double the cost of each new row.
    sa.Index("log_scores_review", "server_id", "ts", "monitor_id", "step", "rtt", "score"),
    sa.Index("log_scores_ts", "ts"),
    sa.Index("log_scores_monitor", "monitor_id"),
    **TABLE_OPTIONS,
)

scorer_status = sa.Table(
    "scorer_status",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("scorer_id", int_u(), sa.ForeignKey("monitors.id"), nullable=False),
    Column("log_score_id", bigint_u(), sa.ForeignKey("log_scores.id"), nullable=False),
    modified_on(),
    **TABLE_OPTIONS,
)

servers_monitor_review = sa.Table(
    "servers_monitor_review",
    metadata,
    of_server(primary_key=True),
    Column("last_review", sa.DateTime),
    Column("next_review", sa.DateTime),
    Column("last_change", sa.DateTime),
    Column("config", sa.String(4096), nullable=False, server_default=""),
    sa.Index("servers_monitor_review_next", "next_review"),
    **TABLE_OPTIONS,
)

system_settings = sa.Table(
    "system_settings",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("key", sa.String(255), nullable=False, unique=True, quote=True),
    Column("value", sa.Text, nullable=False),
    Column("created_on", sa.DateTime, nullable=False),
    modified_on(),
    **TABLE_OPTIONS,
)

monitor_registrations = sa.Table(
    "monitor_registrations",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("monitor_id", int_u(), sa.ForeignKey("monitors.id", ondelete="CASCADE")),
    Column("request_token", sa.String(128), nullable=False, unique=True),
    Column("verification_token", sa.String(32), nullable=False, unique=True),
    Column("ip4", sa.String(15), nullable=False, server_default=""),
    Column("ip6", sa.String(39), nullable=False, server_default=""),
    Column("tls_name", sa.String(255), server_default=""),
    Column("hostname", sa.String(256), nullable=False, server_default=""),
    Column("location_code", sa.String(5), nullable=False, server_default=""),
    Column("account_id", int_u(), sa.ForeignKey("accounts.id")),
    Column("client", sa.String(256), nullable=False, server_default=""),
    Column(
        "status",
        sa.Enum("pending", "accepted", "completed", "rejected", "cancelled", name="registration_status"),
        nullable=False,
    ),
    Column("last_seen", sa.DateTime, nullable=False, server_default=sa.func.current_timestamp()),
    Column("created_on", sa.DateTime, nullable=False),
    **TABLE_OPTIONS,
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    Column("id", int_u(), primary_key=True),
    Column("account_id", int_u(), sa.ForeignKey("accounts.id")),
    Column("user_id", int_u(), sa.ForeignKey("users.id")),
    Column("api_key", sa.String(255), unique=True),
    Column("grants", sa.Text),
    Column("audience", sa.Text, nullable=False),
    Column("token_lookup", sa.String(16), nullable=False),
    Column("token_hashed", sa.String(256), nullable=False),
    Column("last_seen", sa.DateTime),
    Column("created_on", sa.DateTime, nullable=False),
    modified_on(),
    **TABLE_OPTIONS,
)

api_keys_monitors = sa.Table(
    "api_keys_monitors",
    metadata,
    Column("api_key_id", int_u(), sa.ForeignKey("api_keys.id"), primary_key=True),
    Column("monitor_id", int_u(), sa.ForeignKey("monitors.id"), primary_key=True),
    **TABLE_OPTIONS,
)

server_alerts = sa.Table(
    "server_alerts",
    metadata,
    of_server(primary_key=True),
    Column("last_score", sa.Double, nullable=False),
    Column("first_email_time", sa.DateTime, nullable=False),
    Column("last_email_time", sa.DateTime),
    **TABLE_OPTIONS,
)

MONITORS_DATA_VIEW = """
CREATE VIEW `monitors_data` AS
SELECT `id`, `account_id`, `type`,
       CASE WHEN `type` = 'score' THEN `hostname`
            WHEN INSTR(`tls_name`, '.') = 0 THEN `tls_name`
            ELSE SUBSTR(`tls_name`, 1, INSTR(`tls_name`, '.') - 1) END AS `name`,
       `ip`, `ip_version`, `status`, `client_version`, `last_seen`, `last_submit`
FROM `monitors`
WHERE `tls_name` NOT LIKE '%.system'
"""
"""The view of all monitors except the pseudo-monitors that hold settings."""

NAMES: Final = frozenset(metadata.tables)
"""The pool's tables, as defined in this module: tables added to the metadata later are ours."""
