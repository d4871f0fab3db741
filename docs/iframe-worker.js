// Browsers allow a page from the disk no Worker. The site's search then runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = "<!doctype html>";
      this.ready = new Promise((ready) => {
        frame.onload = () => {
          const room = frame.contentWindow;
          room.postMessage = (data) => {
            const event = new MessageEvent("message", { data });
            this.dispatchEvent(event);
            this.onmessage?.(event);
          };
          const script = room.document.createElement("script");
          script.src = url;
          script.onload = () => ready(room);
          room.document.head.append(script);
        };
      });
      document.documentElement.append(frame);
    }
    postMessage(data) {
      this.ready.then((room) => room.dispatchEvent(new room.MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
