/* The signature of a token, and what it says once that is good: all that is asked of libjwt. Its versions 1 and 3 have
 * little more in common than the name, so this has two implementations, of which the Makefile chooses one. */
#ifndef NTPPOOL_SIGNATURE_H
#define NTPPOOL_SIGNATURE_H

#include <jwt.h>
#include <stdbool.h>
#include <time.h>

#include "keys.h"

/* Calls `read` with the token when the key has signed it with the key's own algorithm, whatever its header names, else
 * returns false. */
bool signature_read(const char *text, const struct key *key, void (*read)(jwt_t *token, void *context), void *context);

/* A claim that is a string, until `read` returns; else NULL. */
const char *signature_claim_text(jwt_t *token, const char *name);

/* A claim that is an integer; else false. */
bool signature_claim_time(jwt_t *token, const char *name, time_t *out);

/* A claim that is an array, as JSON, which the caller frees. NULL when there is none. */
char *signature_claim_array(jwt_t *token, const char *name);

/* Whether the header has the parameter. */
bool signature_has_parameter(jwt_t *token, const char *name);

#endif
