/* The keys that tokens are checked with: the current one, and the previous one while a rotation lasts. */
#ifndef NTPPOOL_KEYS_H
#define NTPPOOL_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#define MIN_SECRET_BYTES 48 /* RFC 7518, 3.2: at least the size of the hash */

enum algorithm { HS384, ES384 };

struct key {
	enum algorithm algorithm; /* the only one this key may be used with */
	unsigned char *bytes;     /* a secret, or PEM; a NUL follows */
	size_t length;
	unsigned int serial;      /* tells it from all others that this broker has had since its start */
};

struct keyring {
	struct key keys[2];
	size_t count;
	unsigned int last_serial;
};

/* What is wrong with a key file, for the operator. It never quotes the file. */
struct complaint {
	char text[320];
};

/* Reads the keys. `previous` may be NULL, missing or empty: then there is only one key. False with a complaint when a
 * file cannot be read, holds neither an HMAC secret of enough bytes nor a public key on P-384 as PEM, or when everybody
 * on the machine may read a secret from it, or write to it. */
bool keyring_load(const char *current, const char *previous, struct keyring *out, struct complaint *complaint);

/* Gives the keys of `keyring` their serials: a key that is in `before` keeps the one it has there. */
void keyring_number(struct keyring *keyring, const struct keyring *before);

/* Whether the key with that serial is (still) in use. */
bool keyring_has(const struct keyring *keyring, unsigned int serial);

/* Forgets the keys, also in memory. */
void keyring_free(struct keyring *keyring);

#define QUOTED_BYTES 16

/* Whether 16 bytes in a row of one of the secrets stand in the text. */
bool keyring_is_quoted(const struct keyring *keyring, const char *text);

/* The point of a public key: x and y. */
#define P384_POINT_BYTES 96
void key_point(const struct key *key, unsigned char point[P384_POINT_BYTES]);

const char *key_algorithm_name(const struct key *key);

/* The key in a text; the bytes are copied. False with the reason in `*why`. */
bool key_parse(const unsigned char *text, size_t length, struct key *out, const char **why);

#endif
