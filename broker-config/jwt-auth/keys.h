/* The keys that verify tokens: the current one and, during a rotation, the previous one. */
#ifndef NTPPOOL_KEYS_H
#define NTPPOOL_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#define MIN_SECRET_BYTES 48 /* RFC 7518, 3.2: at least the size of the hash */

enum algorithm { HS384, ES384 };

struct key {
	enum algorithm algorithm; /* the only one that the key is valid for */
	unsigned char *bytes;     /* a secret, or PEM; a NUL follows */
	size_t length;
	unsigned int serial;      /* identifies the key among all that this broker has loaded since its start */
};

struct keyring {
	struct key keys[2];
	size_t count;
	unsigned int last_serial;
};

/* An error in a key file, for the operator. Never contains any of the file's content. */
struct load_error {
	char text[320];
};

/* Loads the keys. `previous` may be NULL, missing or empty: then there is only one key. Returns false and an error if a
 * file cannot be read, contains neither an HMAC secret of sufficient length nor a PEM public key on P-384, contains a
 * secret and is world-readable, or is world-writable. */
bool keyring_load(const char *current, const char *previous, struct keyring *out, struct load_error *error);

/* Assigns serials to the keys of `keyring`. A key that is in `before` keeps its serial. */
void keyring_number(struct keyring *keyring, const struct keyring *before);

bool keyring_has(const struct keyring *keyring, unsigned int serial);

/* Overwrites and frees the keys. */
void keyring_free(struct keyring *keyring);

#define QUOTED_BYTES 16

/* Whether the text contains 16 consecutive bytes of a secret. */
bool keyring_is_quoted(const struct keyring *keyring, const char *text);

/* The point of a public key: x and y. */
#define P384_POINT_BYTES 96
void key_point(const struct key *key, unsigned char point[P384_POINT_BYTES]);

const char *key_algorithm_name(const struct key *key);

/* Parses a key, and copies its bytes. Returns false and sets `*reason` if the text is invalid. */
bool key_parse(const unsigned char *text, size_t length, struct key *out, const char **reason);

#endif
