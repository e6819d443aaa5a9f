// What a paired kiosk knows, in IndexedDB. The private key is a CryptoKey that cannot be exported: the database keeps a
// handle on it, and no script, not even this one, can read its bytes.

const DATABASE = "lintel-kiosk";
const STORE = "terminal";
const KEY = "this";
export const FORMAT = 1;

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older database open"));
  });
}

async function inStore(mode, act) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode, { durability: "strict" });
      const request = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
      transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

/** The stored terminal, or undefined where none was paired or the format is another. */
export async function loadTerminal() {
  const stored = await inStore("readonly", (store) => store.get(KEY));
  return stored?.format === FORMAT && stored.privateKey instanceof CryptoKey ? stored : undefined;
}

export async function keepTerminal(terminal) {
  await inStore("readwrite", (store) => store.put({ ...terminal, format: FORMAT }, KEY));
}
