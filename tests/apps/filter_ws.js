// Which of several programs gets which WebSocket. `serve NAME PORT` sends back what comes with its name in front; `ask URL USER...`
// opens one for each user, sends messages by all of them at once, and prints who answered whom.
// The module `ws` is the first argument.
"use strict";
const [module_, what, ...rest] = process.argv.slice(1);
const { WebSocket, WebSocketServer } = require(module_);

const MESSAGES = 200;

function serve(name, port) {
  new WebSocketServer({ port: Number(port), host: "::" }).on("connection", (socket) => {
    socket.on("message", (data, binary) => socket.send(Buffer.concat([Buffer.from(`${name} `), data]), { binary }));
  });
}

function talk(url, user) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { headers: { "X-User": user } });
    const counts = {};
    let answers = 0;
    const send = () => socket.send(Buffer.alloc(answers % 2 ? 5 : 70_000, 120), { binary: true });
    socket.on("error", reject);
    socket.on("open", send);
    socket.on("message", (data) => {
      const [name, body] = data.toString().split(" ");
      const said = `${name} ${body.length}`;
      counts[said] = (counts[said] ?? 0) + 1;
      answers += 1;
      if (answers < MESSAGES) send();
      else socket.close(1000, "enough");
    });
    socket.on("close", (code) => resolve(`${user} ${JSON.stringify(counts)} ${code}`));
  });
}

if (what === "serve") serve(...rest);
else {
  const [url, ...users] = rest;
  Promise.all(users.map((user) => talk(url, user))).then(
    (lines) => console.log(lines.join("\n")),
    (error) => { console.log(`failed: ${error}`); process.exit(1); },
  );
}
