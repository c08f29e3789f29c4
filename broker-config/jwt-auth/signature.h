/* The signature of a token, and its claims after verification: all that libjwt is used for. Its versions 1 and 3 have
 * little more in common than the name, so there are two implementations, of which the Makefile chooses one. */
#ifndef NTPPOOL_SIGNATURE_H
#define NTPPOOL_SIGNATURE_H

#include <jwt.h>
#include <stdbool.h>
#include <time.h>

#include "keys.h"

/* Calls `read` with the token if it is signed with the key, and with the key's own algorithm, regardless of its header.
 * Otherwise returns false. */
bool signature_read(const char *text, const struct key *key, void (*read)(jwt_t *token, void *context), void *context);

/* Returns a string claim, valid until `read` returns, or NULL. */
const char *signature_claim_text(jwt_t *token, const char *name);

/* Reads an integer claim. Returns false if it is missing or not an integer. */
bool signature_claim_time(jwt_t *token, const char *name, time_t *out);

/* Returns an array claim as JSON, which the caller frees, or NULL. */
char *signature_claim_array(jwt_t *token, const char *name);

bool signature_has_parameter(jwt_t *token, const char *name);

#endif
