/* Lets tests call the parts that do not depend on a broker. Reads one question per line from stdin, its fields
 * separated by tabs, and writes one answer per line to stdout. */
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "access.h"
#include "certificate.h"
#include "filters.h"
#include "grants.h"
#include "identity.h"
#include "keys.h"
#include "order.h"
#include "revocations.h"
#include "shown.h"
#include "token.h"
#include "topic.h"

#define MAX_FIELDS 5

static const char *yes_or_no(bool answer)
{
	return answer ? "yes" : "no";
}

static bool subscription_is_granted(const char *json, const char *requested)
{
	struct filters filters;
	bool granted = filters_parse(json, &filters) && filters_allow_subscription(&filters, requested);

	filters_free(&filters);
	return granted;
}

static void print_filters(const char *json)
{
	struct filters filters;

	if (!filters_parse(json, &filters)) {
		puts("no");
		return;
	}
	printf("%zu", filters.count);
	for (size_t i = 0; i < filters.count; i++) {
		printf("\t%s", filters.items[i]);
	}
	puts("");
	filters_free(&filters);
}

static void check_token(const char *key, const char *now, const char *token)
{
	struct keyring keyring = {.count = 1};
	struct claims claims;
	const char *reason = NULL;

	if (!key_parse((const unsigned char *)key, strlen(key), &keyring.keys[0], &reason)) {
		printf("key %s\n", reason);
		return;
	}
	reason = token_check(token, &keyring, (time_t)strtoll(now, NULL, 10), &claims);
	if (reason == NULL) {
		printf("good %s\n", claims.name);
		claims_free(&claims);
	} else {
		printf("%s\n", reason);
	}
	keyring_free(&keyring);
}

/* --- the table of grants; numbers represent the broker's pointers ---------------------------------------- */

static struct grants *table;

static const void *pointer(const char *number)
{
	static const char OBJECTS[256];

	return &OBJECTS[strtoul(number, NULL, 10) % sizeof OBJECTS];
}

static unsigned int number(const char *text)
{
	return (unsigned int)strtoul(text, NULL, 10);
}

static void enter(const char *client_id, const char *object, const char *key, const char *issued)
{
	size_t length = strcspn(client_id, "/");
	struct claims claims = {.name = strndup(client_id, length),
	                        .rules = rules_of("monitor"),
	                        .expires = 1000,
	                        .issued = (time_t)number(issued),
	                        .key = number(key)};

	printf("%s\n", yes_or_no(claims.name != NULL && grants_enter(table, client_id, &claims, pointer(object))));
	claims_free(&claims);
}

static void show(const char *client_id, const char *object)
{
	struct grant *grant = grants_find(table, client_id);
	const char *found = grant == NULL                            ? "unknown"
	                    : grant->client == pointer(object)       ? "connected"
	                    : grant->former == pointer(object)       ? "departed"
	                                                             : "stranger";

	const char *rights = grant == NULL || !grant->withdrawn ? "good" : grant->revoked ? "revoked" : "withdrawn";

	printf("%s\t%s\t%zu\n", found, rights, grants_count(table));
}

static void end(const char *now)
{
	struct grant *grant = grants_next_to_end(table, (time_t)strtoll(now, NULL, 10));

	puts(grant == NULL ? "none" : grant->client_id);
}

static const char *kept; /* the sessions that the broker keeps, each between commas */

static bool is_kept(const char *client_id)
{
	char quoted[64];

	snprintf(quoted, sizeof quoted, ",%s,", client_id);
	return strstr(kept, quoted) != NULL;
}

static void withdraw(const char *key)
{
	struct keyring keyring = {.keys = {{.serial = number(key)}}, .count = 1};

	grants_withdraw(table, &keyring);
}

static void answer_about_table(char **field)
{
	const char *question = field[0];

	if (strcmp(question, "enter") == 0) {
		enter(field[1], field[2], field[3], field[4]);
	} else if (strcmp(question, "leave") == 0) {
		grants_leave(table, field[1], pointer(field[2]), (time_t)strtoll(field[3], NULL, 10));
		puts("done");
	} else if (strcmp(question, "forget") == 0) {
		kept = field[2];
		grants_forget(table, (time_t)strtoll(field[1], NULL, 10), is_kept);
		puts("done");
	} else if (strcmp(question, "sessions") == 0) {
		printf("%zu\n", grants_count_sessions(table, field[1]));
	} else if (strcmp(question, "withdraw") == 0) {
		withdraw(field[1]);
		puts("done");
	} else if (strcmp(question, "revoke") == 0) {
		grants_revoke(table, field[1], (time_t)number(field[2]));
		puts("done");
	} else if (strcmp(question, "end") == 0) {
		end(field[1]);
	} else if (strcmp(question, "show") == 0) {
		show(field[1], field[2]);
	} else {
		puts("unknown question");
	}
}

/* --- certificates and revocations ------------------------------------------------------------------------- */

/* The certificate is DER, as base64. */
static const char *refusal_of(const char *base64, char *name, const char *role)
{
	size_t length = strlen(base64);
	unsigned char *der = malloc(length + 1);
	const unsigned char *at = der;
	struct claims claims = {.name = name, .rules = rules_of(role)};
	int count = der == NULL ? -1 : EVP_DecodeBlock(der, (const unsigned char *)base64, (int)length);
	X509 *certificate = count < 0 ? NULL : d2i_X509(NULL, &at, count);
	const char *reason = certificate == NULL ? "not a certificate" : certificate_refusal(certificate, &claims);

	X509_free(certificate);
	free(der);
	return reason == NULL ? "good" : reason;
}

static void print_order(const char *json)
{
	struct order order;

	if (order_parse(json, strlen(json), &order)) {
		printf("%s\t%lld\n", order.name, order.issued_until);
	} else {
		puts("no");
	}
}

static struct revocations revocations;

static const char *load_or_save(const char *question, const char *path, time_t now)
{
	static struct load_error error;
	bool good;

	if (strcmp(question, "load") == 0) {
		revocations_free(&revocations);
		good = revocations_load(&revocations, path, now, &error);
	} else {
		good = revocations_save(&revocations, path, &error);
	}
	return good ? "good" : error.text;
}

static bool answer_about_revocations(char **field)
{
	const char *question = field[0], *reason;
	time_t moment = (time_t)strtoll(field[2], NULL, 10);

	if (strcmp(question, "add") == 0) {
		reason = revocations_add(&revocations, field[1], moment, (time_t)strtoll(field[3], NULL, 10));
		puts(reason == NULL ? "good" : reason);
	} else if (strcmp(question, "refuse") == 0) {
		puts(yes_or_no(revocations_refuse(&revocations, field[1], moment, (time_t)strtoll(field[3], NULL, 10))));
	} else if (strcmp(question, "concern") == 0) {
		puts(yes_or_no(revocations_concern(&revocations, field[1], moment)));
	} else if (strcmp(question, "load") == 0 || strcmp(question, "save") == 0) {
		puts(load_or_save(question, field[1], moment));
	} else if (strcmp(question, "certificate") == 0) {
		puts(refusal_of(field[1], field[2], field[3]));
	} else if (strcmp(question, "order") == 0) {
		print_order(field[1]);
	} else {
		return false;
	}
	return true;
}

static void answer(char **field)
{
	const char *question = field[0];
	static const struct keyring no_keys = {.count = 0};
	char shown[64];

	if (strcmp(question, "valid") == 0) {
		puts(yes_or_no(topic_filter_is_valid(field[1])));
	} else if (strcmp(question, "covers") == 0) {
		puts(yes_or_no(topic_filter_covers(field[1], field[2])));
	} else if (strcmp(question, "matches") == 0) {
		puts(yes_or_no(topic_filter_matches(field[1], field[2])));
	} else if (strcmp(question, "status") == 0) {
		puts(yes_or_no(topic_is_status_of(field[1], field[2])));
	} else if (strcmp(question, "control") == 0) {
		puts(yes_or_no(topic_is_control(field[1])));
	} else if (strcmp(question, "revocations") == 0) {
		puts(yes_or_no(topic_is_revocations(field[1])));
	} else if (strcmp(question, "monitors") == 0) {
		puts(yes_or_no(identity_is_monitors(field[1])));
	} else if (strcmp(question, "filters") == 0) {
		print_filters(field[1]);
	} else if (strcmp(question, "granted") == 0) {
		puts(yes_or_no(subscription_is_granted(field[1], field[2])));
	} else if (strcmp(question, "name") == 0) {
		puts(yes_or_no(identity_name_is_valid(field[1])));
	} else if (strcmp(question, "owns") == 0) {
		puts(yes_or_no(identity_owns_client_id(field[1], field[2])));
	} else if (strcmp(question, "log") == 0) {
		puts(shown_text(&no_keys, field[1], shown, sizeof shown));
	} else if (strcmp(question, "token") == 0) {
		check_token(field[1], field[2], field[3]);
	} else if (!answer_about_revocations(field)) {
		answer_about_table(field);
	}
}

int main(void)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t length;

	table = grants_new();
	while (table != NULL && (length = getline(&line, &size, stdin)) > 0) {
		char *field[MAX_FIELDS] = {"", "", "", "", ""}, *rest = line;

		line[length - 1] = '\0';
		for (size_t i = 0; i < MAX_FIELDS && rest != NULL; i++) {
			field[i] = strsep(&rest, "\t");
		}
		answer(field);
		fflush(stdout);
	}
	free(line);
	grants_free(table);
	revocations_free(&revocations);
	return 0;
}
