/* Names and client ids. The plugin interface 5 does not apply Mosquitto's own guard against wildcards in them. */
#ifndef NTPPOOL_IDENTITY_H
#define NTPPOOL_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

#define MAX_NAME_LENGTH 253 /* of a domain name, RFC 1035 */

/* Whether a token can be about this name: one level of a topic, no wildcard, no control character. */
bool identity_name_is_valid(const char *name);

/* Whether `id` is the name, or begins with it and a slash, and holds no wildcard. */
bool identity_owns_client_id(const char *name, const char *id);

/* Whether a token may stand in the id, put into the wrong field. */
bool identity_quotes_token(const char *id);

/* `id` for the log: cut, without control characters, and not at all when it is NULL or may hold a token.
 * Returns `out`. */
const char *identity_for_log(const char *id, char *out, size_t size);

#endif
