#include "order.h"

#include <string.h>

#define MAX_DIGITS 15

static const char *skip_space(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

/* Returns the end of the string whose opening quote is at `p`, after its closing quote, or NULL. */
static const char *skip_string(const char *p)
{
	if (*p++ != '"') {
		return NULL;
	}
	while (*p != '"') {
		p += strcspn(p, "\"\\");
		if (*p == '\\') {
			p++;
			if (*p == '\0') {
				return NULL;
			}
			p++;
		}
		if (*p == '\0') {
			return NULL;
		}
	}
	return p + 1;
}

/* Whether the string from `begin` to `end`, with its quotes, is `text`. */
static bool is_string(const char *begin, const char *end, const char *text)
{
	size_t length = strlen(text);

	return (size_t)(end - begin) == length + 2 && memcmp(begin + 1, text, length) == 0;
}

/* Our names need no escapes. */
static const char *read_name(const char *p, char name[MAX_NAME_LENGTH + 1])
{
	const char *end = skip_string(p);
	size_t length;

	if (end == NULL || name[0] != '\0') {
		return NULL;
	}
	length = (size_t)(end - p) - 2;
	if (length > MAX_NAME_LENGTH || memchr(p, '\\', length + 1) != NULL) {
		return NULL;
	}
	memcpy(name, p + 1, length);
	name[length] = '\0';
	return identity_name_is_valid(name) ? end : NULL;
}

static const char *read_time(const char *p, long long *time)
{
	size_t digits = strspn(p, "0123456789");

	if (*time >= 0 || digits == 0 || digits > MAX_DIGITS || (*p == '0' && digits > 1)) {
		return NULL;
	}
	*time = 0;
	for (const char *end = p + digits; p < end; p++) {
		*time = *time * 10 + (*p - '0');
	}
	return p;
}

/* Numbers and words: what they mean does not matter. */
static const char *skip_value(const char *p)
{
	size_t length;

	if (*p == '"') {
		return skip_string(p);
	}
	length = strspn(p, "+-.0123456789abcdefghijklmnopqrstuvwxyzE");
	return length == 0 ? NULL : p + length;
}

/* Reads `"key": value`. */
static const char *read_member(const char *p, struct order *out)
{
	const char *key = p, *end = skip_string(p);

	if (end == NULL) {
		return NULL;
	}
	p = skip_space(end);
	if (*p != ':') {
		return NULL;
	}
	p = skip_space(p + 1);
	if (is_string(key, end, "name")) {
		return read_name(p, out->name);
	}
	if (is_string(key, end, "issued_until")) {
		return read_time(p, &out->issued_until);
	}
	return skip_value(p);
}

static bool read_object(const char *p, struct order *out)
{
	p = skip_space(p);
	if (*p++ != '{') {
		return false;
	}
	do {
		p = read_member(skip_space(p), out);
		if (p == NULL) {
			return false;
		}
		p = skip_space(p);
	} while (*p++ == ',');
	return p[-1] == '}' && *skip_space(p) == '\0';
}

bool order_parse(const void *json, size_t length, struct order *out)
{
	char text[MAX_ORDER_BYTES + 1];

	*out = (struct order){.issued_until = -1};
	if (length > MAX_ORDER_BYTES || length == 0 || memchr(json, '\0', length) != NULL) {
		return false;
	}
	memcpy(text, json, length);
	text[length] = '\0';
	return read_object(text, out) && out->name[0] != '\0' && out->issued_until >= 0;
}
