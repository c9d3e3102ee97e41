#!/usr/bin/env bash
# Shows napari in a browser: a screen drawn by the CPU, passed on by VNC through a web socket.
# Arguments go to napari. PORT, SIZE and WEB (the folder of noVNC) may be set.
set -euo pipefail
port=${PORT:-6080} size=${SIZE:-1600x1000} web=${WEB:-/usr/share/novnc}
display=:${DISPLAY_NUMBER:-99} vnc=$((port + 1))
export DISPLAY=$display LIBGL_ALWAYS_SOFTWARE=1 QT_QPA_PLATFORM=xcb

Xvfb "$display" -screen 0 "${size}x24" -nolisten tcp &
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    [ -e "/tmp/.X11-unix/X${display#:}" ] && break
    sleep 0.1
done
openbox --config-file <(echo '<openbox_config xmlns="http://openbox.org/3.4/rc"><applications>
<application type="normal"><maximized>yes</maximized></application></applications></openbox_config>') &
x11vnc -display "$display" -localhost -rfbport "$vnc" -forever -shared -nopw -quiet &
websockify --web "$web" "$port" "127.0.0.1:$vnc" &
echo "napari is at http://127.0.0.1:$port/vnc.html?autoconnect=1"
napari "$@"
