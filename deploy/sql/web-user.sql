-- The database user of the public pages (ntppool-web). It reads what is public, and nothing else: no addresses of
-- monitors, no names of their hosts, no keys, no e-mail addresses. Replace the password, and ntppool by the name of the
-- database: mariadb < web-user.sql
CREATE USER IF NOT EXISTS 'ntppool_web'@'127.0.0.1' IDENTIFIED BY 'change-me';
GRANT SELECT (`version_num`) ON `ntppool`.`alembic_version` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`id`, `type`, `ip_version`, `tls_name`, `status`, `client_version`, `location`) ON `ntppool`.`monitors` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`id`, `ip`, `ip_version`, `hostname`, `in_pool`, `netspeed`, `score_raw`, `score_ts`, `created_on`, `deletion_on`, `stratum`) ON `ntppool`.`servers` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`server_id`, `monitor_id`, `status`, `score_raw`, `score_ts`) ON `ntppool`.`server_scores` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT ON `ntppool`.`log_scores` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`tls_name`, `online`, `since`) ON `ntppool`.`monitor_presence` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT ON `ntppool`.`monitor_health` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT ON `ntppool`.`monitor_hours` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT ON `ntppool`.`assignment_changes` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`stored`, `received_on`) ON `ntppool`.`result_batches` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`due_on`) ON `ntppool`.`scoring_queue` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`next_review`) ON `ntppool`.`servers_monitor_review` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`last_seen`) ON `ntppool`.`rejected_messages` TO 'ntppool_web'@'127.0.0.1';
GRANT SELECT (`key`, `value`) ON `ntppool`.`system_settings` TO 'ntppool_web'@'127.0.0.1';
