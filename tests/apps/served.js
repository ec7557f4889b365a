// A server as far as its reloader sees: it asks the service once, says what came, and stays.
require("http").get("http://backend/", (answer) => {
  answer.on("data", (data) => console.log("VERSION", String(data).split("\n")[0]));
});
setInterval(() => {}, 1000);
