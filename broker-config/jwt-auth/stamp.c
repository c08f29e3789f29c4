#include "stamp.h"

#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdlib.h>
#include <strings.h>

static const char SENDER[] = "sender";

static bool copy_string(const mosquitto_property *from, int identifier, mosquitto_property **to)
{
	char *text = NULL;
	bool good = mosquitto_property_read_string(from, identifier, &text, false) != NULL &&
	            mosquitto_property_add_string(to, identifier, text) == MOSQ_ERR_SUCCESS;

	free(text);
	return good;
}

static bool copy_binary(const mosquitto_property *from, int identifier, mosquitto_property **to)
{
	void *bytes = NULL;
	uint16_t length = 0;
	bool good = mosquitto_property_read_binary(from, identifier, &bytes, &length, false) != NULL &&
	            mosquitto_property_add_binary(to, identifier, bytes, length) == MOSQ_ERR_SUCCESS;

	free(bytes);
	return good;
}

static bool copy_byte(const mosquitto_property *from, int identifier, mosquitto_property **to)
{
	uint8_t value = 0;

	return mosquitto_property_read_byte(from, identifier, &value, false) != NULL &&
	       mosquitto_property_add_byte(to, identifier, value) == MOSQ_ERR_SUCCESS;
}

static bool copy_pair(const mosquitto_property *from, mosquitto_property **to)
{
	char *name = NULL, *value = NULL;
	bool good = mosquitto_property_read_string_pair(from, MQTT_PROP_USER_PROPERTY, &name, &value, false) != NULL;

	if (good && strcasecmp(name, SENDER) != 0) {
		good = mosquitto_property_add_string_pair(to, MQTT_PROP_USER_PROPERTY, name, value) == MOSQ_ERR_SUCCESS;
	}
	free(name);
	free(value);
	return good;
}

/* The broker has no function that takes one property out of a list, so all others are copied. These five are all that
 * a message keeps of its PUBLISH packet. */
static bool copy(const mosquitto_property *from, mosquitto_property **to)
{
	int identifier = mosquitto_property_identifier(from);

	switch (identifier) {
	case MQTT_PROP_CONTENT_TYPE:
	case MQTT_PROP_RESPONSE_TOPIC:
		return copy_string(from, identifier, to);
	case MQTT_PROP_CORRELATION_DATA:
		return copy_binary(from, identifier, to);
	case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR:
		return copy_byte(from, identifier, to);
	case MQTT_PROP_USER_PROPERTY:
		return copy_pair(from, to);
	default:
		return true;
	}
}

bool stamp_sender(mosquitto_property **properties, const char *name)
{
	mosquitto_property *stamped = NULL;
	bool good = true;

	for (const mosquitto_property *p = *properties; good && p != NULL; p = mosquitto_property_next(p)) {
		good = copy(p, &stamped);
	}
	good = good && mosquitto_property_add_string_pair(&stamped, MQTT_PROP_USER_PROPERTY, SENDER, name) ==
	                       MOSQ_ERR_SUCCESS;
	if (!good) {
		mosquitto_property_free_all(&stamped);
		return false;
	}
	mosquitto_property_free_all(properties);
	*properties = stamped;
	return true;
}
