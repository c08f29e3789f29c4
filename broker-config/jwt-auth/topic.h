/* Topic filters as sets of topics: which topics a filter matches, and whether one filter covers another. Pure. */
#ifndef NTPPOOL_TOPIC_H
#define NTPPOOL_TOPIC_H

#include <stdbool.h>
#include <stddef.h>

/* Whether '+' and '#' stand only where MQTT 5 (4.7.1) allows them: each a whole level, '#' the last one. */
bool topic_filter_is_valid(const char *filter);

/* Whether every topic that `asked` can match is matched by `granted` too. Both must be valid filters. It may say no
 * where the answer is yes ("+/#" matches all that "#" does), never the other way round. */
bool topic_filter_covers(const char *granted, const char *asked);

/* Whether the valid filter matches the topic. A text that is empty or has wildcards in it is no topic and is
 * matched by nothing. */
bool topic_filter_matches(const char *filter, const char *topic);

/* Takes "$share/<group>/<inner>" apart. False when the filter is of another form, also when group or inner is empty
 * or the group holds a wildcard. */
bool topic_split_shared(const char *filter, const char **group, size_t *group_length, const char **inner);

/* Whether the filter claims to be a shared one, well-formed or not. */
bool topic_is_shared(const char *filter);

/* Whether this is a topic that orders are given on: /{env}/control/# or /{env}/monitors/control/#. */
bool topic_is_control(const char *topic);

/* Whether this is the topic of the status of that name: /{env}/monitors/status/{name}/status. */
bool topic_is_status_of(const char *topic, const char *name);

#endif
