// What jest finds. NUMBER makes several files of it, for which jest has several processes.
const { execFileSync } = require("child_process");

test("fetch NUMBER", async () => {
  const answer = await fetch("http://backend/");
  expect(await answer.text()).toContain("service=backend");
});

test("child NUMBER", () => {
  expect(String(execFileSync("curl", ["-sS", "http://backend/"]))).toContain("service=backend");
});

test("refused NUMBER", async () => {
  await expect(fetch("http://refuse/")).rejects.toMatchObject({ cause: { code: "ECONNREFUSED" } });
});
