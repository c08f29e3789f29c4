#include "keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_KEY_FILE_BYTES 16384

static const char BEGIN_ANY[] = "-----BEGIN ";
static const char BEGIN_PUBLIC[] = "-----BEGIN PUBLIC KEY-----";
static const char END_PUBLIC[] = "-----END PUBLIC KEY-----";

/* Prefix of a SubjectPublicKeyInfo with an uncompressed point on P-384 (RFC 5480); the 96 bytes of the point follow. */
static const unsigned char P384_PREFIX[] = {0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
                                            0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00, 0x04};
#define P384_DER_BYTES (sizeof P384_PREFIX + P384_POINT_BYTES)

static bool is_space(unsigned char c)
{
	return c != '\0' && strchr(" \t\r\n\v\f", c) != NULL;
}

static int base64_value(unsigned char c)
{
	static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c == '\0' ? NULL : strchr(ALPHABET, c);

	return at == NULL ? -1 : (int)(at - ALPHABET);
}

/* Decodes base64 without padding, ignoring white space. Returns the number of bytes, or 0 if the text contains other
 * characters or more than `size` bytes. */
static size_t base64_decode(const unsigned char *text, size_t length, unsigned char *out, size_t size)
{
	unsigned int bits = 0, collected = 0;
	size_t count = 0;

	for (size_t i = 0; i < length; i++) {
		int value = base64_value(text[i]);

		if (is_space(text[i])) {
			continue;
		}
		if (value < 0) {
			return 0;
		}
		bits = (bits << 6 | (unsigned int)value) & 0xffffff;
		collected += 6;
		if (collected >= 8) {
			collected -= 8;
			if (count == size) {
				return 0;
			}
			out[count++] = (unsigned char)(bits >> collected);
		}
	}
	return count;
}

static bool read_p384_public_key(const unsigned char *text, size_t length, unsigned char der[P384_DER_BYTES])
{
	size_t begin = sizeof BEGIN_PUBLIC - 1, end = sizeof END_PUBLIC - 1;

	if (length < begin + end || memcmp(text, BEGIN_PUBLIC, begin) != 0 ||
	    memcmp(text + length - end, END_PUBLIC, end) != 0) {
		return false;
	}
	return base64_decode(text + begin, length - begin - end, der, P384_DER_BYTES) == P384_DER_BYTES &&
	       memcmp(der, P384_PREFIX, sizeof P384_PREFIX) == 0;
}

static const char *key_error(const unsigned char *text, size_t length, enum algorithm *algorithm)
{
	unsigned char der[P384_DER_BYTES];

	if (length >= sizeof BEGIN_ANY - 1 && memcmp(text, BEGIN_ANY, sizeof BEGIN_ANY - 1) == 0) {
		*algorithm = ES384;
		if (read_p384_public_key(text, length, der)) {
			return NULL;
		}
		if (memmem(text, length, "PRIVATE KEY", strlen("PRIVATE KEY")) != NULL) {
			return "contains a private key; the broker must have only the public key (openssl ec -pubout)";
		}
		return "is not a PEM public key on the curve P-384, as written by 'openssl ec -pubout'";
	}
	*algorithm = HS384;
	if (length < MIN_SECRET_BYTES) {
		return "is too short: an HMAC secret needs at least 48 bytes (openssl rand -base64 48)";
	}
	if (memchr(text, '\0', length) != NULL) {
		return "contains a NUL character; an HMAC secret must be text";
	}
	return NULL;
}

bool key_parse(const unsigned char *text, size_t length, struct key *out, const char **reason)
{
	while (length > 0 && is_space(text[length - 1])) {
		length--;
	}
	while (length > 0 && is_space(*text)) {
		text++, length--;
	}
	*reason = key_error(text, length, &out->algorithm);
	if (*reason != NULL) {
		return false;
	}
	out->bytes = malloc(length + 1);
	if (out->bytes == NULL) {
		*reason = "cannot be stored: out of memory";
		return false;
	}
	memcpy(out->bytes, text, length);
	out->bytes[length] = '\0';
	out->length = length;
	return true;
}

/* Reads the whole file, and sets `*mode` to its permissions. Returns the number of bytes, or -1 with errno set. */
static ssize_t read_file(const char *path, unsigned char *buffer, size_t size, mode_t *mode)
{
	struct stat status = {.st_mode = 0};
	size_t count = 0;
	ssize_t got = -1;
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (file < 0) {
		return -1;
	}
	if (fstat(file, &status) == 0 && !S_ISREG(status.st_mode)) {
		errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
	} else {
		while (count < size && (got = read(file, buffer + count, size - count)) > 0) {
			count += (size_t)got;
		}
		if (got > 0) {
			errno = EFBIG;
			got = -1;
		}
	}
	int saved = errno;

	*mode = status.st_mode;
	close(file);
	errno = saved;
	return got < 0 ? -1 : (ssize_t)count;
}

static const char *mode_error(mode_t mode, const struct key *key)
{
	if ((mode & S_IWOTH) != 0) {
		return "is writable by everybody (chmod o-w)";
	}
	if ((mode & S_IROTH) != 0 && key->algorithm == HS384) {
		return "is readable by everybody, so anybody could sign tokens (chmod o-r, and create a new secret)";
	}
	return NULL;
}

static bool load_one(const char *path, bool may_be_missing, struct keyring *out, struct load_error *error)
{
	unsigned char buffer[MAX_KEY_FILE_BYTES];
	mode_t mode = 0;
	ssize_t length = read_file(path, buffer, sizeof buffer, &mode);
	struct key *key = &out->keys[out->count];
	const char *reason = NULL;

	if (may_be_missing && (length == 0 || (length < 0 && errno == ENOENT))) {
		return true;
	}
	if (length < 0) {
		snprintf(error->text, sizeof error->text, "key file %.200s: cannot be read: %.64s", path,
		         strerror(errno));
		return false;
	}
	/* Counted even if the mode is refused, so that the key is freed with the ring. */
	if (key_parse(buffer, (size_t)length, key, &reason)) {
		out->count++;
		reason = mode_error(mode, key);
	}
	explicit_bzero(buffer, sizeof buffer);
	if (reason != NULL) {
		snprintf(error->text, sizeof error->text, "key file %.200s: %s", path, reason);
	}
	return reason == NULL;
}

bool keyring_load(const char *current, const char *previous, struct keyring *out, struct load_error *error)
{
	*out = (struct keyring){.count = 0};
	if (load_one(current, false, out, error) && (previous == NULL || load_one(previous, true, out, error))) {
		return true;
	}
	keyring_free(out);
	return false;
}

static unsigned int serial_of(const struct keyring *keyring, const struct key *key)
{
	for (size_t i = 0; i < keyring->count; i++) {
		if (keyring->keys[i].algorithm == key->algorithm && keyring->keys[i].length == key->length &&
		    memcmp(keyring->keys[i].bytes, key->bytes, key->length) == 0) {
			return keyring->keys[i].serial;
		}
	}
	return 0;
}

void keyring_number(struct keyring *keyring, const struct keyring *before)
{
	keyring->last_serial = before->last_serial;
	for (size_t i = 0; i < keyring->count; i++) {
		unsigned int known = serial_of(before, &keyring->keys[i]);

		keyring->keys[i].serial = known != 0 ? known : ++keyring->last_serial;
	}
}

bool keyring_has(const struct keyring *keyring, unsigned int serial)
{
	for (size_t i = 0; i < keyring->count; i++) {
		if (keyring->keys[i].serial == serial) {
			return true;
		}
	}
	return false;
}

void keyring_free(struct keyring *keyring)
{
	for (size_t i = 0; i < keyring->count; i++) {
		explicit_bzero(keyring->keys[i].bytes, keyring->keys[i].length);
		free(keyring->keys[i].bytes);
	}
	*keyring = (struct keyring){.count = 0};
}

static bool is_quoted(const struct key *key, const char *text)
{
	size_t length = strlen(text);

	for (size_t i = 0; i + QUOTED_BYTES <= key->length; i++) {
		if (memmem(text, length, key->bytes + i, QUOTED_BYTES) != NULL) {
			return true;
		}
	}
	return false;
}

/* Public keys are not secret. */
bool keyring_is_quoted(const struct keyring *keyring, const char *text)
{
	for (size_t i = 0; i < keyring->count; i++) {
		if (keyring->keys[i].algorithm == HS384 && is_quoted(&keyring->keys[i], text)) {
			return true;
		}
	}
	return false;
}

void key_point(const struct key *key, unsigned char point[P384_POINT_BYTES])
{
	unsigned char der[P384_DER_BYTES] = {0};

	read_p384_public_key(key->bytes, key->length, der);
	memcpy(point, der + sizeof P384_PREFIX, P384_POINT_BYTES);
}

const char *key_algorithm_name(const struct key *key)
{
	return key->algorithm == ES384 ? "ES384" : "HS384";
}
