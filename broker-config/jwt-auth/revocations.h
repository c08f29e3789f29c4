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
	time_t noted; /* when the broker received it, or read it from the file */
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
bool revocations_know(const struct revocations *revocations, const char *name, time_t until, time_t now);

/* Whether a token of this name that was issued at `issued` is revoked. */
bool revocations_refuse(const struct revocations *revocations, const char *name, time_t issued, time_t now);

/* Whether there is a revocation in force for the name that this client id belongs to. */
bool revocations_concern(const struct revocations *revocations, const char *client_id, time_t now);

/* What is wrong with a file: numbers of lines. */
struct revocations_damage {
	size_t invalid;    /* skipped */
	size_t impossible; /* their time cannot have been in the file; they count as of now */
	size_t ahead;      /* later than the broker's clock, now or when the file was written */
};

/* Adds the revocations of a file's text, which is changed, and which was written at the time `written`. */
struct revocations_damage revocations_parse(struct revocations *revocations, char *text, time_t written, time_t now);

/* Adds the revocations of a file, which may be missing. Returns false and an error if the file cannot be read, or if
 * anything is wrong with it; the other lines count. */
bool revocations_load(struct revocations *revocations, const char *path, time_t now, struct load_error *error);

/* Replaces the file, so that it has either the former or the new revocations even after a power failure. Returns false
 * and an error if it cannot be written. */
bool revocations_save(const struct revocations *revocations, const char *path, struct load_error *error);

void revocations_free(struct revocations *revocations);

#endif
