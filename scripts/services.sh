# shellcheck shell=bash
# For .ci/run.  Uses the database servers, Redis and Chromium of the machine.  A missing program is installed (Debian, as
# root) and a missing server is started on a free port with its files in $services_folder; stop_services ends only those.
services_folder=$(mktemp -d /tmp/prx_services.XXXXXX)
chmod 755 "$services_folder"
service_pids=()

# A package must not start its own server: this script starts servers with other folders and ports, and ends them.
apt_install() {
    local policy=/usr/sbin/policy-rc.d written=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        written=1
    fi
    echo "installing $*"
    if [ ! -e "$services_folder/updated" ]; then
        apt-get update -qq
        touch "$services_folder/updated"
    fi
    local code=0 log=$services_folder/apt.log
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 || code=$?
    [ -z "$written" ] || rm -f "$policy"
    [ "$code" = 0 ] || tail -n 20 "$log" >&2
    return "$code"
}

need_command() { # need_command COMMAND PACKAGE…
    local command=$1
    shift
    command -v "$command" >/dev/null || apt_install "$@"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

listens() { # listens PORT
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

wait_for_port() { # wait_for_port NAME PORT PID
    local _
    for _ in $(seq 300); do
        if listens "$2"; then return; fi
        kill -0 "$3" 2>/dev/null || break
        sleep 0.1
    done
    echo "$1 did not start:" >&2
    tail -n 20 "$services_folder/$1.log" >&2
    return 1
}

start() { # start NAME PORT COMMAND…
    local name=$1 port=$2
    shift 2
    "$@" >"$services_folder/$name.log" 2>&1 </dev/null &
    service_pids+=("$!")
    wait_for_port "$name" "$port" "$!"
    echo "started $name on port $port"
}

as_user() { # as_user USER COMMAND…
    local user=$1
    shift
    setpriv --reuid="$user" --regid="$user" --init-groups "$@"
}

start_postgresql() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || apt_install postgresql
    local bin data=$services_folder/postgresql
    bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/postgres' | sort -V | tail -n 1)")
    install -d -o postgres -g postgres -m 700 "$data"
    as_user postgres "$bin/initdb" --pgdata="$data" --auth=trust --encoding=UTF8 --locale=C.UTF-8 >/dev/null
    POSTGRES_PORT=$(free_port)
    export POSTGRES_PORT
    start postgresql "$POSTGRES_PORT" setpriv --reuid=postgres --regid=postgres --init-groups \
        "$bin/postgres" -D "$data" -p "$POSTGRES_PORT" -k "$data" -c listen_addresses=127.0.0.1 \
        -c fsync=off -c full_page_writes=off # emptying all tables after a test would wait for the disk
}

start_mariadb() {
    need_command mariadbd mariadb-server
    local data=$services_folder/mariadb
    install -d -o mysql -g mysql -m 700 "$data"
    mariadb-install-db --no-defaults --user=mysql --datadir="$data" --skip-test-db \
        --auth-root-authentication-method=normal >/dev/null
    MARIADB_PORT=$(free_port)
    export MARIADB_PORT
    start mariadb "$MARIADB_PORT" mariadbd --no-defaults --user=mysql --datadir="$data" --port="$MARIADB_PORT" \
        --bind-address=127.0.0.1 --socket="$data/socket" --pid-file="$data/pid" --skip-name-resolve \
        --skip-log-bin --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 # nothing must survive this run
}

start_redis() {
    need_command redis-server redis-server
    local port
    port=$(free_port)
    export REDIS_URL=redis://127.0.0.1:$port/0
    start redis "$port" redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no
}

start_services() {
    need_command make make
    need_command gcc gcc
    need_command pkg-config pkg-config
    need_command chromium chromium
    [ -e /etc/ssl/certs/ca-certificates.crt ] || apt_install ca-certificates
    pkg-config --exists libmariadb || apt_install libmariadb-dev
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    python3 -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
        apt_install python3-dev
    # A running server that needs a password must be described by POSTGRES_… or MARIADB_….
    listens "${POSTGRES_PORT:-5432}" || start_postgresql
    listens "${MARIADB_PORT:-3306}" || start_mariadb
    [ -n "${REDIS_URL:-}" ] || listens 6379 || start_redis
}

stop_services() {
    local pid
    for pid in "${service_pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
    for pid in "${service_pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    wait "${service_pids[@]}" 2>/dev/null || true
    rm -rf "$services_folder"
}
