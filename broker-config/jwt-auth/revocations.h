/* The revocations: for each monitor whose tokens were revoked, the time until which they were issued. They are kept in
 * a file, since such a token stays valid for up to six hours, and the broker may be restarted meanwhile. */
#ifndef NTPPOOL_REVOCATIONS_H
#define NTPPOOL_REVOCATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "keys.h"

/* A monitor's token is valid for six hours; the rest is for clocks that differ. */
#define REVOCATION_SECONDS (7 * 3600)
/* How far the time of a revocation may be ahead of the broker's clock. A time far ahead would lock the monitor out. */
#define REVOCATION_AHEAD_SECONDS 120
/* The pool has some hundred monitors. */
#define MAX_REVOCATIONS 4096

struct revocation {
	char *name;
	time_t until;
};

struct revocations {
	struct revocation *items;
	size_t count, size;
};

/* Whether all tokens that were issued until then have expired. */
bool revocation_is_over(time_t until, time_t now);

/* Adds a revocation, or moves that of the same name to a later time. Forgets those whose tokens have all expired.
 * Returns NULL, or the reason for refusing it. */
const char *revocations_add(struct revocations *revocations, const char *name, time_t until, time_t now);

/* Whether a revocation of this name has this or a later time, so that another one would change nothing. */
bool revocations_know(const struct revocations *revocations, const char *name, time_t until);

/* Whether a token of this name that was issued at `issued` is revoked. */
bool revocations_refuse(const struct revocations *revocations, const char *name, time_t issued);

/* Whether there is a revocation in force for the name that this client id belongs to. */
bool revocations_concern(const struct revocations *revocations, const char *client_id, time_t now);

/* Adds the revocations of a file's text, which is changed. Returns the number of lines that are not valid. */
size_t revocations_parse(struct revocations *revocations, char *text);

/* Adds the revocations of a file, which may be missing. Invalid lines are skipped. Returns false and an error if the
 * file cannot be read, or has such lines. */
bool revocations_load(struct revocations *revocations, const char *path, struct load_error *error);

/* Replaces the file, so that it has either the former or the new revocations even after a power failure. Returns false
 * and an error if it cannot be written. */
bool revocations_save(const struct revocations *revocations, const char *path, struct load_error *error);

void revocations_free(struct revocations *revocations);

#endif
