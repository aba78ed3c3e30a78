/** A UUID of version 7: milliseconds since 1970, then 72 random bits. */
export const uuid7 = (): string => {
  const random = new Uint8Array(36).map(() => Math.random() * 256); // where there is no crypto
  globalThis.crypto?.getRandomValues(random);
  const time = Date.now().toString(16).padStart(12, "0");
  let place = 0;
  return "xxxxxxxx-xxxx-7xxx-8xxx-xxxxxxxxxxxx".replace(
    /x/g,
    (_, at) => time[place++] ?? ((random[at] as number) & 15).toString(16),
  );
};
