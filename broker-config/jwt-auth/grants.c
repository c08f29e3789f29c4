#include "grants.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define FIRST_BUCKETS 256

struct grants {
	struct grant **buckets;
	size_t bucket_count; /* a power of two */
	size_t count;
	uint64_t seed;
	struct grant *oldest, *newest; /* of the clients that have left */
};

/* FNV-1a. Clients choose their ids; the seed keeps them from choosing the bucket. */
static size_t bucket_of(const struct grants *grants, const char *client_id)
{
	uint64_t hash = 0xcbf29ce484222325u ^ grants->seed;

	for (const unsigned char *p = (const unsigned char *)client_id; *p != '\0'; p++) {
		hash = (hash ^ *p) * 0x100000001b3u;
	}
	return (size_t)(hash ^ hash >> 32) & (grants->bucket_count - 1);
}

struct grants *grants_new(void)
{
	struct grants *grants = calloc(1, sizeof *grants);

	if (grants == NULL) {
		return NULL;
	}
	grants->buckets = calloc(FIRST_BUCKETS, sizeof *grants->buckets);
	grants->bucket_count = FIRST_BUCKETS;
	if (grants->buckets == NULL || getrandom(&grants->seed, sizeof grants->seed, 0) != sizeof grants->seed) {
		free(grants->buckets);
		free(grants);
		return NULL;
	}
	return grants;
}

static void grant_free(struct grant *grant)
{
	claims_free(&grant->claims);
	free(grant->client_id);
	free(grant);
}

void grants_free(struct grants *grants)
{
	for (size_t i = 0; grants != NULL && i < grants->bucket_count; i++) {
		for (struct grant *grant = grants->buckets[i], *next; grant != NULL; grant = next) {
			next = grant->next;
			grant_free(grant);
		}
	}
	if (grants != NULL) {
		free(grants->buckets);
	}
	free(grants);
}

struct grant *grants_find(const struct grants *grants, const char *client_id)
{
	struct grant *grant = grants->buckets[bucket_of(grants, client_id)];

	while (grant != NULL && strcmp(grant->client_id, client_id) != 0) {
		grant = grant->next;
	}
	return grant;
}

size_t grants_count(const struct grants *grants)
{
	return grants->count;
}

/* --- clients that have left, the oldest first ------------------------------------------------------------ */

static void list_append(struct grants *grants, struct grant *grant)
{
	grant->older = grants->newest;
	grant->newer = NULL;
	*(grants->newest != NULL ? &grants->newest->newer : &grants->oldest) = grant;
	grants->newest = grant;
}

static void list_remove(struct grants *grants, struct grant *grant)
{
	*(grant->older != NULL ? &grant->older->newer : &grants->oldest) = grant->newer;
	*(grant->newer != NULL ? &grant->newer->older : &grants->newest) = grant->older;
	grant->older = grant->newer = NULL;
}

static void forget(struct grants *grants, struct grant *grant)
{
	struct grant **link = &grants->buckets[bucket_of(grants, grant->client_id)];

	while (*link != grant) {
		link = &(*link)->next;
	}
	*link = grant->next;
	list_remove(grants, grant);
	grants->count--;
	grant_free(grant);
}

void grants_forget(struct grants *grants, time_t now, bool (*is_kept)(const char *client_id))
{
	for (struct grant *grant = grants->oldest, *newer; grant != NULL; grant = newer) {
		bool is_due = grant->looked == 0 || now - grant->looked >= LOOK_SECONDS;

		newer = grant->newer;
		if (now - grant->left > REMEMBERED_SECONDS || (is_due && !is_kept(grant->client_id))) {
			forget(grants, grant);
		} else if (is_due) {
			grant->looked = now;
		}
	}
}

/* --- all grants ------------------------------------------------------------------------------------------ */

void grants_withdraw(struct grants *grants, const struct keyring *keyring)
{
	for (size_t i = 0; i < grants->bucket_count; i++) {
		for (struct grant *grant = grants->buckets[i]; grant != NULL; grant = grant->next) {
			grant->withdrawn = grant->withdrawn || !keyring_has(keyring, grant->claims.key);
		}
	}
}

void grants_revoke(struct grants *grants, const char *name, time_t until)
{
	for (size_t i = 0; i < grants->bucket_count; i++) {
		for (struct grant *grant = grants->buckets[i]; grant != NULL; grant = grant->next) {
			if (grant->claims.rules->is_monitor && grant->claims.issued <= until &&
			    strcmp(grant->claims.name, name) == 0) {
				grant->withdrawn = grant->revoked = true;
			}
		}
	}
}

size_t grants_count_sessions(const struct grants *grants, const char *name)
{
	size_t count = 0;

	for (size_t i = 0; i < grants->bucket_count; i++) {
		for (struct grant *grant = grants->buckets[i]; grant != NULL; grant = grant->next) {
			count += !grant->withdrawn && strcmp(grant->claims.name, name) == 0;
		}
	}
	return count;
}

/* --- login and disconnection ----------------------------------------------------------------------------- */

/* If memory is short, the table keeps its size, and only becomes slower. */
static void grow(struct grants *grants)
{
	struct grant **old = grants->buckets;
	size_t old_count = grants->bucket_count;
	struct grant **buckets = calloc(old_count * 2, sizeof *buckets);

	if (buckets == NULL) {
		return;
	}
	grants->buckets = buckets;
	grants->bucket_count = old_count * 2;
	for (size_t i = 0; i < old_count; i++) {
		for (struct grant *grant = old[i], *next; grant != NULL; grant = next) {
			struct grant **bucket = &buckets[bucket_of(grants, grant->client_id)];

			next = grant->next;
			grant->next = *bucket;
			*bucket = grant;
		}
	}
	free(old);
}

static struct grant *add(struct grants *grants, const char *client_id)
{
	struct grant *grant = calloc(1, sizeof *grant);

	if (grant == NULL || (grant->client_id = strdup(client_id)) == NULL) {
		free(grant);
		return NULL;
	}
	if (grants->count >= grants->bucket_count) {
		grow(grants);
	}
	struct grant **bucket = &grants->buckets[bucket_of(grants, client_id)];

	grant->next = *bucket;
	*bucket = grant;
	grants->count++;
	return grant;
}

bool grants_enter(struct grants *grants, const char *client_id, struct claims *claims, const void *client)
{
	struct grant *grant = grants_find(grants, client_id);

	if (grant == NULL) {
		grant = add(grants, client_id);
		if (grant == NULL) {
			return false;
		}
	} else {
		claims_free(&grant->claims);
		if (grant->client == NULL) {
			list_remove(grants, grant);
		} else if (grant->client != client) {
			/* The broker ends the previous connection after this login. */
			grant->former = grant->client;
		}
		/* The will of a connection with a withdrawn token must not get the permissions of this one. */
		if (grant->withdrawn) {
			grant->former = NULL;
		}
	}
	grant->claims = *claims;
	*claims = (struct claims){.name = NULL};
	grant->client = client;
	grant->withdrawn = grant->revoked = false;
	grant->ending = false;
	return true;
}

void grants_leave(struct grants *grants, const char *client_id, const void *client, time_t now)
{
	struct grant *grant = grants_find(grants, client_id);

	if (grant == NULL || grant->client != client) {
		return;
	}
	grant->former = client;
	grant->client = NULL;
	grant->left = now;
	grant->looked = 0;
	list_append(grants, grant);
}

struct grant *grants_next_to_end(struct grants *grants, time_t now)
{
	for (size_t i = 0; i < grants->bucket_count; i++) {
		for (struct grant *grant = grants->buckets[i]; grant != NULL; grant = grant->next) {
			bool over = grant->withdrawn || now >= grant->claims.expires;

			if (over && grant->client != NULL && !grant->ending) {
				grant->ending = true;
				return grant;
			}
		}
	}
	return NULL;
}
