#include "topic.h"

#include <string.h>

static const char SHARED[] = "$share/";

/* One level of a topic; `text` is NULL after the last one. */
struct level {
	const char *text;
	size_t length;
};

static struct level first_level(const char *topic)
{
	return (struct level){topic, strcspn(topic, "/")};
}

static struct level next_level(struct level level)
{
	const char *end = level.text + level.length;

	return *end == '/' ? first_level(end + 1) : (struct level){NULL, 0};
}

static bool is(struct level level, char wildcard)
{
	return level.length == 1 && level.text[0] == wildcard;
}

bool topic_filter_is_valid(const char *filter)
{
	if (*filter == '\0') {
		return false;
	}
	for (struct level level = first_level(filter); level.text != NULL; level = next_level(level)) {
		bool has_wildcard = strcspn(level.text, "+#") < level.length;

		if (has_wildcard && !is(level, '+') && !is(level, '#')) {
			return false;
		}
		if (is(level, '#') && next_level(level).text != NULL) {
			return false;
		}
	}
	return true;
}

bool topic_filter_covers(const char *granted, const char *requested)
{
	/* A leading wildcard does not match topics that begin with '$' (MQTT 5, 4.7.2). */
	if (*requested == '$' && *granted != '$') {
		return false;
	}
	struct level g = first_level(granted), r = first_level(requested);

	for (; r.text != NULL; g = next_level(g), r = next_level(r)) {
		if (g.text == NULL) {
			return false;
		}
		if (is(g, '#')) {
			return true;
		}
		if (is(r, '#')) {
			return false;
		}
		if (!is(g, '+') && (g.length != r.length || memcmp(g.text, r.text, r.length) != 0)) {
			return false;
		}
	}
	/* "a/#" also matches "a". */
	return g.text == NULL || is(g, '#');
}

bool topic_filter_matches(const char *filter, const char *topic)
{
	return *topic != '\0' && strpbrk(topic, "+#") == NULL && topic_filter_covers(filter, topic);
}

bool topic_is_shared(const char *filter)
{
	return strncmp(filter, SHARED, sizeof SHARED - 1) == 0 || strcmp(filter, "$share") == 0;
}

bool topic_split_shared(const char *filter, const char **group, size_t *group_length, const char **inner)
{
	if (strncmp(filter, SHARED, sizeof SHARED - 1) != 0) {
		return false;
	}
	*group = filter + sizeof SHARED - 1;
	*group_length = strcspn(*group, "/");
	if (*group_length == 0 || strcspn(*group, "+#") < *group_length || (*group)[*group_length] != '/') {
		return false;
	}
	*inner = *group + *group_length + 1;
	return **inner != '\0';
}

bool topic_is_control(const char *topic)
{
	return topic_filter_matches("/+/control/#", topic) || topic_filter_matches("/+/monitors/control/#", topic);
}

bool topic_is_revocations(const char *topic)
{
	return topic_filter_matches("/+/control/broker/revocations", topic);
}

bool topic_is_status_of(const char *topic, const char *name)
{
	static const char BEFORE[] = "/monitors/status/", AFTER[] = "/status";
	const char *rest = *topic == '/' ? strchr(topic + 1, '/') : NULL;
	size_t length = strlen(name);

	if (rest == NULL || strncmp(rest, BEFORE, sizeof BEFORE - 1) != 0) {
		return false;
	}
	rest += sizeof BEFORE - 1;
	return strncmp(rest, name, length) == 0 && strcmp(rest + length, AFTER) == 0;
}
