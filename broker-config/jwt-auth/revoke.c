/* Revocations that clients send, or that an earlier run of the broker has received. */
#include "order.h"
#include "plugin.h"
#include "shown.h"

/* Each new revocation is written to the disk before it is acknowledged, which takes the time of a few messages. */
#define MAX_LEFT 256
#define MORE_PER_SECOND 32

void begin_revocations(struct plugin *plugin)
{
	struct load_error error;

	plugin->revocations_left = MAX_LEFT;
	plugin->revocations_given = monotonic_seconds();
	if (plugin->revocations_file == NULL) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: plugin_opt_revocations_file is not set: revocations are "
		                                      "forgotten when the broker ends");
		return;
	}
	/* A broker that did not start because of this file would be worse than one that lacks some revocations: tokens
	 * expire, and the API repeats the revocations of the last hours. */
	if (!revocations_load(&plugin->revocations, plugin->revocations_file, time(NULL), &error)) {
		mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: %s", error.text);
		/* Any order, also a repeated one, replaces it. */
		plugin->revocations_unsaved = true;
	}
}

static bool may_accept_another(struct plugin *plugin)
{
	time_t now = monotonic_seconds();
	time_t more = (now - plugin->revocations_given) * MORE_PER_SECOND;

	plugin->revocations_given = now;
	plugin->revocations_left =
		more >= MAX_LEFT - plugin->revocations_left ? MAX_LEFT : plugin->revocations_left + (int)more;
	if (plugin->revocations_left == 0) {
		return false;
	}
	plugin->revocations_left--;
	return true;
}

/* A revocation is in force even if it cannot be saved. The sender learns of it and repeats it, until it is saved. */
static const char *save(struct plugin *plugin)
{
	struct load_error error;

	if (plugin->revocations_file == NULL) {
		return NULL;
	}
	plugin->revocations_unsaved = !revocations_save(&plugin->revocations, plugin->revocations_file, &error);
	if (plugin->revocations_unsaved) {
		mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: %s", error.text);
		return "it is in force, but could not be saved";
	}
	return NULL;
}

static const char *revoke(struct plugin *plugin, const struct grant *sender, const struct order *order)
{
	char by[LOG_NAME_BYTES], name[LOG_NAME_BYTES];
	time_t until = (time_t)order->issued_until, now = time(NULL);

	if (revocation_is_over(until, now)) {
		return NULL;
	}
	if (revocations_know(&plugin->revocations, order->name, until, now)) {
		return plugin->revocations_unsaved ? save(plugin) : NULL;
	}
	if (!may_accept_another(plugin)) {
		return "too many revocations at once";
	}
	const char *reason = revocations_add(&plugin->revocations, order->name, until, now);

	if (reason != NULL) {
		return reason;
	}
	grants_revoke(plugin->grants, order->name, until);
	/* Their connections end at the next tick. */
	plugin->last_look = 0;
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: the tokens of %s issued until %lld are revoked, by %s",
	                     shown_text(&plugin->keyring, order->name, name, sizeof name), order->issued_until,
	                     shown_text(&plugin->keyring, sender->claims.name, by, sizeof by));
	return save(plugin);
}

bool obey_revocation(struct plugin *plugin, const struct grant *sender, const struct mosquitto_evt_message *message)
{
	char by[LOG_NAME_BYTES];
	struct order order;
	const char *reason;

	if (!sender->claims.rules->may_revoke) {
		reason = "its role does not permit it";
	} else if (!order_parse(message->payload, message->payloadlen, &order)) {
		reason = "it must be JSON such as {\"name\": \"nlams1-x.test.mon.example\", \"issued_until\": 1767322984}";
	} else {
		reason = revoke(plugin, sender, &order);
	}
	if (reason != NULL) {
		mosquitto_log_printf(MOSQ_LOG_WARNING, "jwt-auth: a revocation by %s is refused: %s",
		                     shown_text(&plugin->keyring, sender->claims.name, by, sizeof by), reason);
	}
	return reason == NULL;
}
