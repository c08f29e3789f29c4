#include "shown.h"

#include <string.h>

bool shown_is_secret(const struct keyring *keyring, const char *text)
{
	/* The parts of a JWT begin with '{"', which is "eyJ" in base64. */
	return strstr(text, "eyJ") != NULL || strstr(text, "PRIVATE KEY") != NULL || keyring_is_quoted(keyring, text);
}

/* Returns the length of the control character at `text` (one of ASCII, or U+0080 to U+009F in UTF-8), or 0. */
static size_t control_length(const char *text)
{
	unsigned char first = (unsigned char)text[0], second = first == 0 ? 0 : (unsigned char)text[1];

	if (first < 0x20 || first == 0x7f) {
		return 1;
	}
	return first == 0xc2 && second >= 0x80 && second <= 0x9f ? 2 : 0;
}

const char *shown_text(const struct keyring *keyring, const char *text, char *out, size_t size)
{
	if (text == NULL || shown_is_secret(keyring, text)) {
		text = "(not shown)";
	}
	size_t length = strnlen(text, size - 1), at = 0;

	/* Do not cut within a character. */
	while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) {
		length--;
	}
	for (size_t i = 0; i < length; at++) {
		size_t control = control_length(text + i);

		out[at] = control > 0 ? '?' : text[i];
		i += control > 0 ? control : 1;
	}
	out[at] = '\0';
	return out;
}
