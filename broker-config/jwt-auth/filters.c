#include "filters.h"

#include <stdlib.h>
#include <string.h>

#include "topic.h"

static const char ANY_GROUP[] = "$share/+/";

/* The filter that topics are compared with: a shared grant without "$share/group/". */
static const char *inner_of_grant(const char *granted)
{
	const char *group, *inner;
	size_t length;

	if (strncmp(granted, ANY_GROUP, sizeof ANY_GROUP - 1) == 0) {
		return granted + sizeof ANY_GROUP - 1;
	}
	return topic_split_shared(granted, &group, &length, &inner) ? inner : granted;
}

static bool grants_group(const char *granted, const char *group, size_t length)
{
	const char *granted_group, *inner;
	size_t granted_length;

	if (strncmp(granted, ANY_GROUP, sizeof ANY_GROUP - 1) == 0) {
		return true;
	}
	return topic_split_shared(granted, &granted_group, &granted_length, &inner) && granted_length == length &&
	       memcmp(granted_group, group, length) == 0;
}

bool filters_allow_subscription(const struct filters *filters, const char *requested)
{
	const char *group = NULL, *inner = requested;
	size_t length = 0;
	bool shared = topic_is_shared(requested);

	if (shared && !topic_split_shared(requested, &group, &length, &inner)) {
		return false;
	}
	if (!topic_filter_is_valid(inner)) {
		return false;
	}
	for (size_t i = 0; i < filters->count; i++) {
		const char *granted = filters->items[i];

		if (shared ? !grants_group(granted, group, length) : topic_is_shared(granted)) {
			continue;
		}
		if (topic_filter_covers(inner_of_grant(granted), inner)) {
			return true;
		}
	}
	return false;
}

bool filters_match(const struct filters *filters, const char *topic)
{
	for (size_t i = 0; i < filters->count; i++) {
		if (topic_filter_matches(inner_of_grant(filters->items[i]), topic)) {
			return true;
		}
	}
	return false;
}

static bool grant_is_valid(const char *granted)
{
	const char *inner = inner_of_grant(granted);

	return topic_filter_is_valid(inner) && (inner != granted || !topic_is_shared(granted));
}

static const char *skip_space(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

/* Copies the string at `p`, after its opening quote, to `*out`. Returns the end of its closing quote, or NULL. */
static const char *read_string(const char *p, char **out)
{
	size_t length = strcspn(p, "\"\\");

	if (p[length] != '"') {
		return NULL;
	}
	memcpy(*out, p, length);
	(*out)[length] = '\0';
	*out += length + 1;
	return p + length + 1;
}

/* `out` and `text` have room for as many strings as `p` can contain. */
static bool read_array(const char *p, struct filters *out, char *text)
{
	p = skip_space(p);
	if (*p++ != '[') {
		return false;
	}
	p = skip_space(p);
	if (*p == ']') {
		return *skip_space(p + 1) == '\0';
	}
	for (;;) {
		if (*p != '"') {
			return false;
		}
		out->items[out->count] = text;
		p = read_string(p + 1, &text);
		if (p == NULL || !grant_is_valid(out->items[out->count])) {
			return false;
		}
		out->count++;
		p = skip_space(p);
		if (*p == ']') {
			return *skip_space(p + 1) == '\0';
		}
		if (*p++ != ',') {
			return false;
		}
		p = skip_space(p);
	}
}

bool filters_parse(const char *json, struct filters *out)
{
	size_t length = strlen(json), quotes = 0;

	*out = (struct filters){0, NULL};
	for (const char *p = json; *p != '\0'; p++) {
		quotes += *p == '"';
	}
	/* Each string has two quotes, and needs less space without them. */
	size_t max_count = quotes / 2 + 1;

	out->items = malloc(max_count * sizeof *out->items + length + 1);
	if (out->items == NULL) {
		return false;
	}
	if (!read_array(json, out, (char *)(out->items + max_count))) {
		filters_free(out);
		return false;
	}
	return true;
}

void filters_free(struct filters *filters)
{
	free(filters->items);
	*filters = (struct filters){0, NULL};
}
