"""Home Assistant itself, with its MQTT integration, and a mosquitto: `make homeassistant`."""
