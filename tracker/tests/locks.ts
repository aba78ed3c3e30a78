/** Web Locks for a DOM that has none: what several pages of an origin share. */
export class FakeLocks {
  readonly held = new Set<string>();

  request(
    name: string,
    options: { ifAvailable: boolean },
    work: (lock: object | null) => Promise<void> | undefined,
  ): Promise<void> {
    if (!options.ifAvailable) throw new Error("would wait");
    if (this.held.has(name)) return Promise.resolve(work(null));
    this.held.add(name);
    return Promise.resolve(work({})).finally(() => this.held.delete(name));
  }
}
