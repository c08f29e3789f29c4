/* Names and client ids. The plugin interface 5 does not apply Mosquitto's own guard against wildcards in them. */
#ifndef NTPPOOL_IDENTITY_H
#define NTPPOOL_IDENTITY_H

#include <stdbool.h>

#define MAX_NAME_LENGTH 253 /* of a domain name, RFC 1035 */

/* Whether a token can be about this name: one level of a topic, no wildcard, no control character. */
bool identity_name_is_valid(const char *name);

#define MAX_CLIENT_ID_LENGTH 512 /* a name and more; the broker remembers it for every session */

/* Whether `id` is the name, or begins with it and a slash, holds no wildcard and is not too long. */
bool identity_owns_client_id(const char *name, const char *id);

#endif
