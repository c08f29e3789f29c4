/* The lists of topic filters that a token grants. */
#ifndef NTPPOOL_FILTERS_H
#define NTPPOOL_FILTERS_H

#include <stdbool.h>
#include <stddef.h>

struct filters {
	size_t count;
	char **items; /* one allocation: the pointers, then the texts */
};

/* Parses a JSON array of strings. Returns false and an empty `*out` if it is anything else, contains an invalid filter
 * or an escape (our filters need none), or memory is short. */
bool filters_parse(const char *json, struct filters *out);

void filters_free(struct filters *filters);

/* Whether a subscription to `requested` is granted. A shared one ("$share/group/filter") needs a grant of that form
 * ("$share/+/filter" grants any group), since it takes messages away from the group's other members. */
bool filters_allow_subscription(const struct filters *filters, const char *requested);

/* Whether one of the filters matches the topic. */
bool filters_match(const struct filters *filters, const char *topic);

#endif
