// node npm_smtp_server.js PORT TLS_PORT CHAIN FOLDER USER PASSWORD TOKEN
"use strict";
const fs = require("fs");
const path = require("path");
const { SMTPServer } = require("smtp-server");

const [port, tlsPort, chain, folder, user, password, token] = process.argv.slice(2);
const pem = fs.readFileSync(chain);
let count = 0;

function refusal(code, text) {
    return Object.assign(new Error(text), { responseCode: code });
}

const options = {
    name: "node.example.test",
    key: pem,
    cert: pem,
    authMethods: ["PLAIN", "LOGIN", "XOAUTH2"],
    disableReverseLookup: true,
    onAuth(auth, session, done) {
        const good = auth.method === "XOAUTH2" ? auth.accessToken === token : auth.password === password;
        if (good && auth.username === user) {
            return done(null, { user });
        }
        done(null, { data: { status: "401", schemes: "bearer mac", scope: "my_smtp_access_scope_name" } });
    },
    onRcptTo(address, session, done) {
        if (address.address.startsWith("refused")) {
            return done(refusal(550, "5.1.1 nobody of that name"));
        }
        if (address.address.startsWith("deferred")) {
            return done(refusal(450, "4.2.1 try again later"));
        }
        done();
    },
    onData(stream, session, done) {
        const chunks = [];
        stream.on("data", (chunk) => chunks.push(chunk));
        stream.on("end", () => {
            for (const recipient of session.envelope.rcptTo) {
                const message = Buffer.concat([Buffer.from(`Delivered-To: ${recipient.address}\r\n`), ...chunks]);
                const name = String(count++);
                // Renamed when it is complete: a reader of the folder must not see half a message.
                fs.writeFileSync(path.join(folder, "..", name), message);
                fs.renameSync(path.join(folder, "..", name), path.join(folder, name));
            }
            done();
        });
    },
};

for (const [number, secure] of [[port, false], [tlsPort, true]]) {
    const server = new SMTPServer({ ...options, secure });
    // A client that closes the connection must not end the server.
    server.on("error", (error) => console.error(error.message));
    server.listen(Number(number), "127.0.0.1");
}
process.on("SIGTERM", () => process.exit(0));
